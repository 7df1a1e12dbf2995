#include "tests/quant/reference_elements.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace nibble::reference {

int Element::largest_exponent() const { return std::ilogb(magnitudes.back()); }

int Element::with_sign(int code, float x) const {
  if (!std::signbit(x)) return code;
  return sign_bit != 0 ? code + sign_bit : -code;
}

float Element::value(int code) const {
  const bool negative = sign_bit != 0 ? (code & sign_bit) != 0 : code < 0;
  const int magnitude = sign_bit != 0 ? code & ~sign_bit : std::abs(code);
  return static_cast<float>(negative ? -magnitudes[magnitude] : magnitudes[magnitude]);
}

int Element::nearest(float x) const {
  const double magnitude = std::min<double>(std::abs(x), magnitudes.back());
  int best = 0;
  for (int code = 1; code < static_cast<int>(magnitudes.size()); ++code) {
    const double distance = std::abs(magnitude - magnitudes[code]), least = std::abs(magnitude - magnitudes[best]);
    if (distance < least || (distance == least && code % 2 == 0)) best = code;
  }
  return with_sign(best, x);
}

int Element::stochastic(float x, float uniform) const {
  const double magnitude = std::min<double>(std::abs(x), magnitudes.back());
  int below = 0;
  while (below + 1 < static_cast<int>(magnitudes.size()) && magnitudes[below + 1] <= magnitude) ++below;
  const double rest = magnitude - magnitudes[below];
  const bool up = rest > 0 && uniform < rest / (magnitudes[below + 1] - magnitudes[below]);
  return with_sign(below + up, x);
}

Element floating_point(int exponent_bits, int mantissa_bits, double largest) {
  Element element{.magnitudes = {}, .sign_bit = 1 << (exponent_bits + mantissa_bits), .mantissa_bits = mantissa_bits};
  const int bias = (1 << (exponent_bits - 1)) - 1;
  for (int code = 0; code < element.sign_bit; ++code) {
    const int exponent = code >> mantissa_bits, mantissa = code & ((1 << mantissa_bits) - 1);
    const double fraction = std::ldexp(mantissa, -mantissa_bits);
    const double magnitude = exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, exponent - bias);
    if (magnitude <= largest) element.magnitudes.push_back(magnitude);
  }
  return element;
}

Element integer(int bits, double quantum) {
  Element element{.magnitudes = {}, .sign_bit = 0, .mantissa_bits = bits - 2};
  for (int code = 0; code < 1 << (bits - 1); ++code) element.magnitudes.push_back(code * quantum);
  return element;
}

Element power_of_two() {
  Element element{.magnitudes = {}, .sign_bit = 256, .mantissa_bits = 0};
  for (int exponent = -127; exponent <= 127; ++exponent) element.magnitudes.push_back(std::ldexp(1.0, exponent));
  return element;
}

int half_odd_code(float x, float step, int bits) {
  const int levels = 1 << bits;
  return static_cast<int>(std::clamp<float>(std::floor(x / step), -levels / 2, levels / 2 - 1));
}

float half_odd_value(int code, float step) { return (static_cast<float>(code) + 0.5f) * step; }

}  // namespace nibble::reference
