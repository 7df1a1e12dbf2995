// How kernels read and write moments, whatever they are kept in: a tile of elements as f32.
//
//   MomentTile m(moments.first, first, count, step, moment_packing(stream.isa()));
//   for (int64_t i = 0; i < count; ++i) m.values()[i] *= 0.9f;
//   m.close();
//
// In f32 nothing stands between kernel and memory; else a tile is unpacked and packed again in the first cache.
#pragma once

#include <cstdint>

#include "optim/moment.hpp"
#include "tensor/stream.hpp"

namespace nibble {

/// What is done with moments that are not f32, compiled once for each instruction set: the same bits.
struct MomentPacking {
  /// values[i] = element first + i of what this rank has of the moment; `first` is a multiple of moment.tile().
  void (*unpack)(const Moment& moment, int64_t first, int64_t count, float* values);
  /// The way back: `count` elements, no more than a tile, rounded. bf16 is rounded up with the probability that makes
  /// the mean exact, never to an infinity. Of codes the block gets the scale of its largest value.
  void (*pack)(const Moment& moment, int64_t first, int64_t count, int64_t step, const float* values);
};

const MomentPacking& moment_packing(Isa isa);

class MomentTile {
 public:
  MomentTile(const Moment& moment, int64_t first, int64_t count, int64_t step, const MomentPacking& packing)
      : moment_(moment), packing_(packing), first_(first), count_(count), step_(step) {
    if (in_place()) values_ = moment.values.as<float>() + first;
    else packing.unpack(moment, first, count, values_ = unpacked_);
  }
  MomentTile(const MomentTile&) = delete;
  MomentTile& operator=(const MomentTile&) = delete;

  /// Of the tile; read and written.
  float* values() const { return values_; }

  /// What was written becomes the moment.
  void close() {
    if (!in_place()) packing_.pack(moment_, first_, count_, step_, values_);
  }

 private:
  bool in_place() const { return moment_.precision == MomentPrecision::f32; }

  const Moment& moment_;
  const MomentPacking& packing_;
  int64_t first_, count_, step_;
  float* values_;
  alignas(alignment) float unpacked_[largest_moment_tile];
};

}  // namespace nibble
