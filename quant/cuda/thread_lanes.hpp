// What BlockQuantizer asks of a device's thread: one outer index, whose values lie in the block's memory.
#pragma once

#include "quant/block_quantizer.hpp"
#include "quant/cuda/tile.hpp"
#include "tensor/random.hpp"

namespace nibble::cuda {

/// One of QuantizedParts, row-major in [outer, reduction axis]: gathered in the block's memory, then written.
struct TilePart {
  uint8_t* data = nullptr;
  int64_t stride = 0;
  int values = 8, bytes = 1;  ///< so many of the reduction axis take so many bytes
  int offset = 0, pitch = 0;  ///< in the block's memory, bytes

  explicit operator bool() const { return data != nullptr; }
  __device__ bool written() const { return data != nullptr; }
  __device__ int64_t place(int64_t d) const { return d / values * bytes; }
};

struct TileParts {
  TilePart codes, scales, mask;
};

struct Tallies {
  unsigned clipped = 0, masked = 0;
};

struct RandomEight {
  PhiloxBlock words;

  __device__ float uniform(int number) const {
    const uint32_t word = words[static_cast<size_t>(number / 2)];
    return uniform_of<float>(number % 2 == 0 ? word & 0xffffu : word >> 16);
  }
};

class ThreadLanes {
 public:
  using Rows = SharedRows;

  /// `counted` is null where nobody counts.
  __device__ ThreadLanes(const TileParts& parts, uint8_t* memory, const TilePlace& place, int o, Tallies* counted)
      : parts_(parts), memory_(memory), place_(place), o_(o), counted_(counted) {}

  __device__ RandomEight randoms(const RandomStream& stream, uint32_t part, int64_t block, int64_t blocks) const {
    const auto index = static_cast<uint32_t>((place_.outer + o_) * blocks + block);
    return {stream.block(uint64_t{part} << 32 | index)};
  }

  /// Sixteen outer indices are sixteen neighbours of a warp, whose lanes all come here.
  __device__ float largest_of_square(float x) const {
    for (unsigned distance = 8; distance > 0; distance /= 2) x = larger_magnitude(x, of_lane(x, lane() ^ distance));
    return x;
  }
  __device__ float sum_of_square(float x) const {
    for (unsigned distance = 8; distance > 0; distance /= 2) x = x + of_lane(x, lane() ^ distance);
    return x;
  }

  __device__ bool element_parts() const { return parts_.codes.written(); }
  __device__ bool scale_parts() const { return parts_.scales.written(); }
  __device__ bool mask_parts() const { return parts_.mask.written(); }
  __device__ bool counts() const { return counted_ != nullptr; }

  __device__ void write_scale(int64_t block, uint32_t code) const {
    *to(parts_.scales, block * parts_.scales.values) = static_cast<uint8_t>(code);
  }
  __device__ void write_mask(int64_t eight, uint32_t passing) const {
    *to(parts_.mask, 8 * eight) = static_cast<uint8_t>(passing);
  }
  __device__ void write_codes(int64_t eight, int bits, uint32_t low, uint32_t high) const {
    uint8_t* const codes = to(parts_.codes, 8 * eight);
    if (bits == 4 || bits == 8) {  // whole words
      reinterpret_cast<uint32_t*>(codes)[0] = low;
      if (bits == 8) reinterpret_cast<uint32_t*>(codes)[1] = high;
      return;
    }
    for (int i = 0; i < bits; ++i) codes[i] = static_cast<uint8_t>(i < 4 ? low >> (8 * i) : high >> (8 * i - 32));
  }
  __device__ void count(int elements, uint32_t passing, uint32_t clipped) const {
    if (o_ >= place_.width) return;
    counted_->clipped += clipped;
    for (int j = 0; j < elements; ++j) counted_->masked += (passing >> j & 1u) == 0;
  }

 private:
  __device__ uint8_t* to(const TilePart& part, int64_t d) const {
    return memory_ + part.offset + o_ * part.pitch + (part.place(d) - part.place(place_.first));
  }

  const TileParts& parts_;
  uint8_t* memory_;
  const TilePlace& place_;
  int o_;
  Tallies* counted_;
};

/// What the block has gathered of a part goes to the matrix, in words where these fit.
__device__ inline void write_part(const TilePart& part, const uint8_t* memory, const TilePlace& place) {
  if (!part.written()) return;
  const auto bytes = static_cast<int>(part.place(place.first + place.count) - part.place(place.first));
  uint8_t* const to = part.data + place.outer * part.stride + part.place(place.first);
  const uint8_t* const from = memory + part.offset;
  const int unit =
      (reinterpret_cast<uintptr_t>(to) | static_cast<uintptr_t>(part.stride) | static_cast<uintptr_t>(bytes)) % 4 == 0
          ? 4
          : 1;
  const int units = bytes / unit;
  for (int i = static_cast<int>(threadIdx.x); i < units * place.width; i += static_cast<int>(blockDim.x)) {
    const int o = i / units, at = i % units * unit;
    if (unit == 4)
      *reinterpret_cast<uint32_t*>(to + o * part.stride + at) =
          *reinterpret_cast<const uint32_t*>(from + o * part.pitch + at);
    else to[o * part.stride + at] = from[o * part.pitch + at];
  }
}

}  // namespace nibble::cuda
