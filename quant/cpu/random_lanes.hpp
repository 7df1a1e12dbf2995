// Philox for sixteen counters at once: what RandomStream::block gives, one block in each lane.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "quant/arithmetic.hpp"
#include "tensor/random.hpp"
#include "tensor/simd.hpp"

namespace nibble::simd {

using u64x = uint64_t __attribute__((vector_size(64)));

/// The products of the lower words: one instruction, which the compiler does not find by itself.
[[gnu::always_inline]] inline u64x multiply_lower_words(u64x a, u64x b) {
#if defined(NIBBLE_TILES_FOR_AVX512)
  // All lanes of the masked form: GCC 12 takes the other's unused operand for an uninitialized variable.
  return reinterpret_cast<u64x>(
      _mm512_maskz_mul_epu32(0xff, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
  struct Halves {
    __m256i half[2];
  };
  const Halves x = as<Halves>(a), y = as<Halves>(b);
  return as<u64x>(Halves{_mm256_mul_epu32(x.half[0], y.half[0]), _mm256_mul_epu32(x.half[1], y.half[1])});
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

/// The upper words in place of the lower ones; what becomes of the upper ones, nobody asks.
[[gnu::always_inline]] inline u64x upper_words(u64x v) {
#if defined(NIBBLE_TILES_FOR_AVX512)
  const u32x words = as<u32x>(v);
  return as<u64x>(__builtin_shufflevector(words, words, 1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15));
#else
  return v >> 32;
#endif
}

/// Sixteen blocks of four words, and from them eight uniform numbers in (0, 1) of 16 bits in each lane.
struct RandomLanes {
  u32x words[4];

  /// Lane i gets block `index` + i * `step` of the stream, in part `part` of it.
  [[gnu::always_inline]] RandomLanes(const RandomStream& stream, uint32_t part, uint32_t index, uint32_t step) {
    constexpr u64x twice = {0, 2, 4, 6, 8, 10, 12, 14};
    draw(Eight(stream, part, twice * step + index), Eight(stream, part, (twice + 1) * step + index));
  }
  /// Lanes 0, 2, 4 ... get these blocks, and lanes 1, 3, 5 ... those.
  [[gnu::always_inline]] RandomLanes(const RandomStream& stream, uint32_t part, u64x even, u64x odd) {
    draw(Eight(stream, part, even), Eight(stream, part, odd));
  }

  [[gnu::always_inline]] f32x uniform(int number) const {
    const u32x word = words[number / 2];
    return uniform_of<f32x>(number % 2 == 0 ? word & 0xffffu : word >> 16);
  }

 private:
  struct Eight;
  [[gnu::always_inline]] void draw(Eight even, Eight odd) {
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) even.next_round(), odd.next_round();
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) words[i] = as<u32x>((even.counter[i] & 0xffffffffu) | odd.counter[i] << 32);
  }

  /// Every other lane's block: the lower halves of 64 bits, so that a product's upper word is a shift away. What the
  /// upper halves hold is never read.
  struct Eight {
    u64x counter[4];
    uint32_t key[2];

    [[gnu::always_inline]] Eight(const RandomStream& stream, uint32_t part, u64x indices)
        : counter{indices}, key{stream.key()[0], stream.key()[1]} {
      const PhiloxBlock first = stream.counter(uint64_t{part} << 32);
      for (int i = 1; i < 4; ++i) counter[i] = u64x{} + first[static_cast<size_t>(i)];
    }
    [[gnu::always_inline]] void next_round() {
      const u64x product0 = multiply_lower_words(counter[0], u64x{} + 0xD2511F53u),
                 product1 = multiply_lower_words(counter[2], u64x{} + 0xCD9E8D57u);
      counter[0] = upper_words(product1) ^ counter[1] ^ key[0];
      counter[1] = product1;
      counter[2] = upper_words(product0) ^ counter[3] ^ key[1];
      counter[3] = product0;
      key[0] += 0x9E3779B9u;
      key[1] += 0xBB67AE85u;
    }
  };
};

}  // namespace nibble::simd
