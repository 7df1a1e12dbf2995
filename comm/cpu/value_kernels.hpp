// What is known of a bucket's values before they get codes: magnitudes, extremes, squares. Part of
// code_kernels_body.hpp.
#pragma once

#include "comm/cpu/code_kernels.hpp"
#include "comm/cpu/code_lanes.hpp"
#include "quant/arithmetic.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

using simd::f32x;
using simd::u32x;

[[gnu::always_inline]] inline u32x larger(u32x a, u32x b) { return a > b ? a : b; }

uint32_t largest_lane(u32x v) {
  uint32_t numbers[simd::lanes], largest = 0;
  std::memcpy(numbers, &v, sizeof numbers);
  for (const uint32_t number : numbers) largest = std::max(largest, number);
  return largest;
}

uint32_t largest_magnitude_bits(std::span<const float> x) {
  constexpr int64_t at_once = 4;  // no comparison waits for the one before it
  const auto size = static_cast<int64_t>(x.size()), whole = size / (at_once * simd::lanes) * (at_once * simd::lanes);
  u32x most[at_once] = {};
  for (int64_t i = 0; i < whole; i += at_once * simd::lanes)
#pragma GCC unroll 4
    for (int64_t j = 0; j < at_once; ++j)
      most[j] = larger(bits_of(magnitude(simd::load(x.data() + i + j * simd::lanes))), most[j]);
  simd::for_each_group(size - whole, [&](int64_t i, int64_t count) {
    most[0] = larger(bits_of(magnitude(simd::load_n(x.data() + whole + i, count))), most[0]);
  });
  return largest_lane(larger(larger(most[0], most[1]), larger(most[2], most[3])));
}

Extremes extremes(std::span<const float> x) {
  f32x low = simd::splat(x[0]), high = low;
  u32x most{};
  simd::for_each_group(static_cast<int64_t>(x.size()), [&](int64_t i, int64_t count) {
    const f32x v = simd::load_n(x.data() + i, count, x[0]);
    low = v < low ? v : low;
    high = v > high ? v : high;
    most = larger(bits_of(magnitude(v)), most);
  });
  return {-simd::max(-low), simd::max(high), largest_lane(most)};
}

double squared_norm(std::span<const float> x) {
  SumOfProducts sum;
  simd::for_each_group(static_cast<int64_t>(x.size()), [&](int64_t i, int64_t count) {
    const f32x v = simd::load_n(x.data() + i, count);
    sum.add(v, v);
  });
  return sum.value();
}

uint8_t largest_code(std::span<const uint8_t> codes, uint8_t mask) {
  uint8_t largest = 0;
  for (const uint8_t code : codes) largest = std::max(largest, static_cast<uint8_t>(code & mask));
  return largest;
}

}  // namespace
}  // namespace nibble
