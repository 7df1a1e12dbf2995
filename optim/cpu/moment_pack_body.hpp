// How moments are unpacked and packed; included by moment_pack_avx2.cpp and moment_pack_avx512.cpp, each for its
// instruction set.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstring>

#include "optim/cpu/moment_lanes.hpp"
#include "optim/cpu/moment_tile.hpp"
#include "optim/moment_codes.hpp"

namespace nibble {
namespace {

floats load(const float* p) {
  floats v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

/// Calls body(i, n) for each group of so many elements as there are lanes; n is less only in the last.
template <class Body>
void for_each_group(int64_t count, Body&& body) {
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) body(i, lanes);
  if (i < count) body(i, count - i);
}

/// The first n; the other lanes are zero.
floats load_n(const float* p, int64_t n) {
  if (n == lanes) return load(p);
  float some[lanes] = {};
  std::copy_n(p, n, some);
  return load(some);
}
void store_n(float* p, floats v, int64_t n) { std::memcpy(p, &v, static_cast<size_t>(n) * sizeof *p); }

/// Widened; the other lanes are zero.
template <class Stored>
integers load_integers(const Stored* p, int64_t n) {
  Stored some[lanes] = {};
  if (n == lanes) std::memcpy(some, p, sizeof some);
  else std::copy_n(p, n, some);
  integers wide;
  for (int64_t lane = 0; lane < lanes; ++lane) wide[lane] = some[lane];
  return wide;
}

/// The lower bytes of each lane.
template <class Stored>
void store_lanes(Stored* p, integers v) {
#if defined(NIBBLE_MOMENTS_FOR_AVX512)
  if constexpr (sizeof(Stored) == 1) _mm512_mask_cvtepi32_storeu_epi8(p, 0xffff, (__m512i)v);
  else _mm512_mask_cvtepi32_storeu_epi16(p, 0xffff, (__m512i)v);
#elif defined(__x86_64__)
  // Within each half of the register, then both halves side by side.
  if constexpr (sizeof(Stored) == 1) {
    const __m256i bytes = _mm256_shuffle_epi8((__m256i)v, _mm256_set1_epi32(0x0c080400));
    const __m128i packed = _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    std::memcpy(p, &packed, lanes);
  } else {
    const __m256i words = _mm256_shuffle_epi8((__m256i)v, _mm256_set1_epi64x(0x0d0c090805040100));
    const __m128i packed = _mm_unpacklo_epi64(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    std::memcpy(p, &packed, 2 * lanes);
  }
#else
  for (int64_t lane = 0; lane < lanes; ++lane) p[lane] = static_cast<Stored>(v[lane]);
#endif
}
template <class Stored>
void store_integers(Stored* p, integers v, int64_t n) {
  if (n == lanes) return store_lanes(p, v);
  Stored some[lanes];
  store_lanes(some, v);
  std::copy_n(some, n, p);
}

/// Sixteen random bits for each element of a tile: element e of the logical tensor has half e % 8 of block e / 8.
class Draws {
 public:
  Draws(const Moment& moment, int64_t first, int64_t step)
      : random_(moment.random(step)),
        block_(static_cast<uint64_t>(moment.kind) << 32 | static_cast<uint64_t>((moment.first + first) / of_block)) {}

  /// Of elements i, i + 1 ... of the tile, one a lane; groups come in order.
  integers bits(int64_t i) {
    const int64_t place = i % (blocks * of_block);
    if (place == 0) draw(block_ + static_cast<uint64_t>(i / of_block));
    return load_integers(halves_ + place, lanes);
  }

 private:
  static constexpr int64_t of_block = 8;        ///< halves
  static constexpr int64_t blocks = lanes / 2;  ///< that are drawn at once

#if defined(__x86_64__)
  using words = uint64_t __attribute__((vector_size(blocks * 8)));

  /// The products of the lower halves.
  static words product(words a, uint32_t b) {
#if defined(NIBBLE_MOMENTS_FOR_AVX512)
    return (words)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)(words{} + b));
#else
    return (words)_mm256_mul_epu32((__m256i)a, (__m256i)(words{} + b));
#endif
  }

  /// Philox (tensor/random.hpp) of neighbouring blocks from a multiple of their number on, a word in each lower half of
  /// 64 bits; what the upper halves hold is never read.
  void draw(uint64_t first) {
    const PhiloxBlock counter = random_.counter(first);
    words word[4];
    for (size_t i = 0; i < 4; ++i) word[i] = words{} + counter[i];
    for (int64_t block = 0; block < blocks; ++block) word[0][block] += static_cast<uint64_t>(block);
    uint32_t key[2] = {random_.key()[0], random_.key()[1]};
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const words product0 = product(word[0], 0xD2511F53u), product1 = product(word[2], 0xCD9E8D57u);
      word[0] = (product1 >> 32) ^ word[1] ^ key[0];
      word[1] = product1;
      word[2] = (product0 >> 32) ^ word[3] ^ key[1];
      word[3] = product0;
      key[0] += 0x9E3779B9u;
      key[1] += 0xBB67AE85u;
    }
    const words low = (word[0] & 0xffffffffu) | word[1] << 32, high = (word[2] & 0xffffffffu) | word[3] << 32;
    for (int64_t block = 0; block < blocks; ++block) {
      const uint64_t both[2] = {low[block], high[block]};
      std::memcpy(halves_ + block * of_block, both, sizeof both);
    }
  }
#else
  void draw(uint64_t first) {
    for (int64_t block = 0; block < blocks; ++block) {
      const PhiloxBlock drawn = random_.block(first + static_cast<uint64_t>(block));
      std::memcpy(halves_ + block * of_block, drawn.data(), sizeof drawn);
    }
  }
#endif

  RandomStream random_;
  uint64_t block_;
  uint16_t halves_[blocks * of_block];
};

void unpack_bf16(const Moment& moment, int64_t first, int64_t count, float* values) {
  const auto* const from = reinterpret_cast<const uint16_t*>(moment.values.as<bf16>() + first);
  for_each_group(count,
                 [&](int64_t i, int64_t n) { store_n(values + i, (floats)(load_integers(from + i, n) << 16), n); });
}

void pack_bf16(const Moment& moment, int64_t first, int64_t count, int64_t step, const float* values) {
  auto* const to = reinterpret_cast<uint16_t*>(moment.values.as<bf16>() + first);
  Draws draws(moment, first, step);
  for_each_group(count, [&](int64_t i, int64_t n) {
    store_integers(to + i, stochastic_bf16<Register>(load_n(values + i, n), draws.bits(i)) >> 16, n);
  });
}

template <class Code>
void unpack_codes(const Moment& moment, int64_t first, int64_t count, float* values) {
  const auto* const codes = moment.values.as<typename Code::Storage>() + first;
  const float scale = moment.scales.as<float>()[first / Code::block];
  for_each_group(
      count, [&](int64_t i, int64_t n) { store_n(values + i, Code::decode(load_integers(codes + i, n)) * scale, n); });
}

/// encode(i, values, inverse): the codes of elements i, i + 1 ...
template <class Code, class Encode>
void pack_codes(const Moment& moment, int64_t first, int64_t count, const float* values, float largest_code,
                Encode&& encode) {
  floats largest{};
  for_each_group(count, [&](int64_t i, int64_t n) {
    const floats size = Register::absolute(load_n(values + i, n));
    largest = size > largest ? size : largest;
  });
  float most = 0;
  for (int lane = 0; lane < lanes; ++lane) most = std::max(most, largest[lane]);
  const float scale = code_scale<Register>(most, largest_code);
  const float inverse = 1 / scale;
  moment.scales.as<float>()[first / Code::block] = scale;
  auto* const codes = moment.values.as<typename Code::Storage>() + first;
  for_each_group(
      count, [&](int64_t i, int64_t n) { store_integers(codes + i, encode(i, load_n(values + i, n), inverse), n); });
}

template <class Code>
void pack_nearest(const Moment& moment, int64_t first, int64_t count, const float* values) {
  pack_codes<Code>(moment, first, count, values, Code::largest,
                   [](int64_t, floats value, float inverse) { return Code::encode(value, inverse); });
}

void unpack_tile(const Moment& moment, int64_t first, int64_t count, float* values) {
  if (moment.precision == MomentPrecision::bf16) return unpack_bf16(moment, first, count, values);
  switch (moment.kind) {
    case MomentKind::second:
      return unpack_codes<DynamicCode<Register, false>>(moment, first, count, values);
    case MomentKind::matrix_momentum:
      return unpack_codes<LinearCode<Register>>(moment, first, count, values);
    default:
      return unpack_codes<DynamicCode<Register, true>>(moment, first, count, values);
  }
}

void pack_tile(const Moment& moment, int64_t first, int64_t count, int64_t step, const float* values) {
  assert(first % moment.tile() == 0 && count <= moment.tile());
  if (moment.precision == MomentPrecision::bf16) return pack_bf16(moment, first, count, step, values);
  switch (moment.kind) {
    case MomentKind::second:
      return pack_nearest<DynamicCode<Register, false>>(moment, first, count, values);
    case MomentKind::matrix_momentum:
      return pack_nearest<LinearCode<Register>>(moment, first, count, values);
    case MomentKind::slow: {
      // 1 has no negative: the largest value, if it is one, would shrink in every step and the slow moment forget it.
      Draws draws(moment, first, step);
      return pack_codes<DynamicCode<Register, true>>(
          moment, first, count, values, DynamicCode<Register, true>::top, [&](int64_t i, floats value, float inverse) {
            return DynamicCode<Register, true>::encode(value, inverse, uniform<Register>(draws.bits(i)));
          });
    }
    default:
      return pack_nearest<DynamicCode<Register, true>>(moment, first, count, values);
  }
}

constexpr MomentPacking compiled{.unpack = unpack_tile, .pack = pack_tile};

}  // namespace
}  // namespace nibble
