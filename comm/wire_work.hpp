// What collectives and sums do with the memory of vectors that ranks send each other: at once in the host's, queued in
// a device's.
//
// Not for: what travels, and when (collectives.hpp, bucket_sums.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "comm/communicator.hpp"
#include "comm/lanes.hpp"
#include "comm/pieces.hpp"
#include "comm/square_sum.hpp"
#include "tensor/dtype.hpp"

namespace nibble {

class WireWork {
 public:
  explicit WireWork(Communicator& communicator) : WireWork(communicator.stream()) {}
  /// Of a device, or null: the host's.
  explicit WireWork(Stream* stream) : stream_(stream) {}

  bool on_device() const { return stream_ != nullptr; }

  /// packed = bytes [first, first + packed.size()) of the pieces; and the reverse.
  void pack(const Pieces& pieces, size_t first, std::span<std::byte> packed) const;
  void unpack(std::span<const std::byte> packed, const Pieces& pieces, size_t first) const;

  /// Rounded to nearest, or widened.
  void to_bf16(const float* from, int64_t count, bf16* to) const;
  void to_f32(const bf16* from, int64_t count, float* to) const;

  /// to = from; into += from.
  void copy(const float* from, int64_t count, float* to) const;
  void add(const float* from, int64_t count, float* into) const;

  /// Of vectors of one length: to = from, a + b, a - b, or `value` everywhere; `to` may be one of the others.
  void copy(std::span<const float> from, std::span<float> to) const;
  void plus(std::span<const float> a, std::span<const float> b, std::span<float> to) const;
  void minus(std::span<const float> a, std::span<const float> b, std::span<float> to) const;
  void fill(std::span<float> to, float value) const;

  /// sums[b] = the squares of block b (square_sum.hpp), whose vectors and sums lie where this works.
  void block_squares(const SquaredVectors& of, double* sums) const;

  /// sum[i] = the contributions' elements first + i, added in the order of plan_lanes(ranks, ranks), which is `plan`;
  /// `sum` may be where one of them lies. Throws Error{configuration} for more ranks than devices have room for.
  void sum(const std::vector<MicroBatchSum>& plan, std::span<const float* const> contributions, int64_t first,
           int64_t count, float* sum) const;

 private:
  Stream* stream_;
};

}  // namespace nibble
