// Philox for sixteen counters at once: what RandomStream::block gives, one block in each lane.
#pragma once

#include "tensor/random.hpp"
#include "tensor/simd.hpp"

namespace nibble::simd {

/// Sixteen blocks of four words, and from them eight uniform numbers in (0, 1) of 16 bits in each lane.
struct RandomLanes {
  u32x words[4];

  /// Lane i gets block `index` + i * `step` of the stream, in part `part` of it.
  [[gnu::always_inline]] RandomLanes(const RandomStream& stream, uint32_t part, uint32_t index, uint32_t step) {
    const PhiloxBlock counter = stream.counter(uint64_t{part} << 32);
    auto [key0, key1] = stream.key();
    u32x ramp;
    for (int lane = 0; lane < lanes; ++lane) ramp[lane] = static_cast<uint32_t>(lane);
    u32x c0 = ramp * step + index, c1 = u32x{} + counter[1], c2 = u32x{} + counter[2], c3 = u32x{} + counter[3];
    for (int round = 0; round < 10; ++round) {
      const u32x high0 = high(c0, 0xD2511F53u), low0 = c0 * 0xD2511F53u;
      const u32x high1 = high(c2, 0xCD9E8D57u), low1 = c2 * 0xCD9E8D57u;
      c0 = high1 ^ c1 ^ key0;
      c1 = low1;
      c2 = high0 ^ c3 ^ key1;
      c3 = low0;
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
  }

  [[gnu::always_inline]] f32x uniform(int number) const {
    const u32x word = words[number / 2], half = number % 2 == 0 ? word & 0xffffu : word >> 16;
    return (__builtin_convertvector(as<i32x>(half), f32x) + 0.5f) * 0x1p-16f;
  }

 private:
  /// The upper words of the products.
  [[gnu::always_inline]] static u32x high(u32x x, uint32_t factor) {
    u32x result;  // the compiler makes vector multiplications of the loop
    for (int lane = 0; lane < lanes; ++lane) result[lane] = static_cast<uint32_t>(uint64_t{x[lane]} * factor >> 32);
    return result;
  }
};

}  // namespace nibble::simd
