// QuEST's quantizers: scales from a deviation or a root mean square, and masks of what the gradient may pass.
#include <algorithm>
#include <array>
#include <cmath>

#include "tests/quant/reference_quantizers.hpp"

namespace nibble::reference {
namespace {

// Of a symmetric uniform grid with 2^bits levels on N(0, 1): where its outermost level has the least squared error.
constexpr std::array<double, 9> alpha{0,
                                      0.7978845587140913,
                                      1.4935346200015913,
                                      2.051068354131873,
                                      2.513930578568423,
                                      2.9160938834961225,
                                      3.276597282593217,
                                      3.6010497188221655,
                                      3.884938678807525};
constexpr double e2m1_alpha = 2.92247856;  // the same for E2M1's levels, 6 on it
constexpr double smallest = 1e-8;          // added to every scale

double mean_square(const Matrix& x, const Block& block) {
  double sum = 0;
  for (const size_t i : block) sum += std::pow(double{x.values[i]}, 2);
  return sum / static_cast<double>(block.size());
}

double mean(const Matrix& x, const Block& block) {
  double sum = 0;
  for (const size_t i : block) sum += x.values[i];
  return sum / static_cast<double>(block.size());
}

}  // namespace

ReferenceQuantized quantize_quest_mxfp4(const Matrix& x, DeviationRule rule) {
  ReferenceQuantized result(x);
  for (const Block& block : blocks(x, {1, 32})) {
    const double variance = mean_square(x, block) - std::pow(mean(x, block), 2);
    const double ideal = e2m1_alpha / 6 * std::sqrt(std::max(variance, 0.0)) + smallest;
    const double exponent = std::floor(std::log2(ideal) + (rule == DeviationRule::nearest ? 0.5 : 0));
    const float scale = static_cast<float>(rule == DeviationRule::exact ? ideal : std::exp2(exponent));
    result.scales.push_back(scale);
    for (const size_t i : block) {
      const float y = x.values[i] / scale;
      const int code = e2m1.nearest(y);
      result.set(i, code, e2m1.value(code) * scale);
      result.mask[i] = std::abs(y) < 6;
    }
  }
  return result;
}

ReferenceQuantized quantize_quest_integer(const Matrix& x, int bits, float clip) {
  ReferenceQuantized result(x);
  for (const Block& row : blocks(x, whole_row)) {
    const double outermost = alpha[bits] * std::sqrt(mean_square(x, row)) + smallest;
    const double steps = (1 << bits) - 1;  // from the lowest level to the highest
    const float step = static_cast<float>(2 * outermost / steps);
    const double trusted = outermost * (clip != 0 ? clip : 1 + 1 / steps);
    result.scales.push_back(step);
    for (const size_t i : row) {
      const int code = half_odd_code(x.values[i], step, bits);
      result.set(i, code, half_odd_value(code, step));
      result.mask[i] = std::abs(x.values[i]) <= trusted;
    }
  }
  return result;
}

ReferenceQuantized quantize_quest_e2m1(const Matrix& x) {
  ReferenceQuantized result(x);
  for (const Block& row : blocks(x, whole_row)) {
    const float scale = static_cast<float>(e2m1_alpha / 6 * std::sqrt(mean_square(x, row)) + smallest);
    result.scales.push_back(scale);
    for (const size_t i : row) {
      const int code = e2m1.nearest(x.values[i] / scale);
      result.set(i, code, e2m1.value(code) * scale);
      result.mask[i] = std::abs(x.values[i]) <= 7 * scale;
    }
  }
  return result;
}

ReferenceQuantized quantize_quest_sparse(const Matrix& x) {
  ReferenceQuantized result = quantize_quest_integer(x, 4);
  for (const Block& eight : blocks(x, {1, 8})) {
    const float half_step = result.scales[eight.front() / x.depth] / 2;
    std::array<double, 4> norm;
    for (int pair = 0; pair < 4; ++pair)
      norm[pair] = std::hypot(x.values[eight[2 * pair]], x.values[eight[2 * pair + 1]]);
    for (int pair = 0; pair < 4; ++pair) {
      int larger = 0;  // pairs that come before this one; of equal ones the earlier
      for (int other = 0; other < 4; ++other)
        larger += norm[other] > norm[pair] || (norm[other] == norm[pair] && other < pair);
      for (const size_t i : {eight[2 * pair], eight[2 * pair + 1]})
        if (larger >= 2) {
          result.set(i, 0, 0);
          result.mask[i] = std::abs(x.values[i]) <= half_step;
        }
    }
  }
  return result;
}

}  // namespace nibble::reference
