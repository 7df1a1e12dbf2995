// What holds on average, and rotations.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "quant/self_test_checks.hpp"
#include "tensor/fill.hpp"

namespace nibble {
namespace self_test_checks {
namespace {

/// Sums over elements; `d` is q - x.
struct Moments {
  double xx = 0, xd = 0, dd = 0, xxdd = 0, dddd = 0;

  Moments(std::span<const float> x, std::span<const float> q) {
    for (size_t i = 0; i < x.size(); ++i) {
      const double d = double{q[i]} - x[i], of_x = double{x[i]} * x[i], of_d = d * d;
      xx += of_x;
      xd += x[i] * d;
      dd += of_d;
      xxdd += of_x * of_d;
      dddd += of_d * of_d;
    }
  }
  double misalignment() const { return -xd / xx; }
  /// Taking elements for independent.
  double standard_error_of_misalignment() const { return std::sqrt(xxdd) / xx; }
};

}  // namespace

Check bias(const QuantizerRow& row, std::span<const float> x, std::span<const float> q) {
  const Quantizer& quantizer = row.quantizer;
  const bool stochastic = quantizer.rounding == Rounding::stochastic && quantizer.choice == BlockChoice::none;
  if (!stochastic && quantizer.correction_group == 0) return {};
  const Moments moments(x, q);
  // EDEN is unbiased for large groups only: of 128 and more under scales of 16, 0.0006 are left.
  const double allowed = 5 * moments.standard_error_of_misalignment() + (stochastic ? 0 : 1e-3);
  if (std::abs(moments.misalignment()) <= allowed) return {};
  return {{"", stochastic ? "stochastic rounding is unbiased" : "EDEN's correction leaves no bias",
           fmt::format("1 - <x, q> / <x, x> = {:.6f}", moments.misalignment()),
           fmt::format("at most {:.6f}, five standard errors", allowed)}};
}

Check quoted_error(const QuantizerRow& row, std::span<const float> x, std::span<const float> q) {
  if (!row.error || row.of_the_sample) return {};
  const Moments moments(x, q);
  const double error = moments.dd / moments.xx, quoted = row.error->value;
  const double allowed = quoted / 50 + 5 * std::sqrt(moments.dddd) / moments.xx;
  if (std::abs(error - quoted) <= allowed) return {};
  return {{"", "the error on normal values is the known one", fmt::format("{:.6g}", error),
           fmt::format("{:.6g} within {:.2g}", quoted, allowed)}};
}

}  // namespace self_test_checks

std::vector<SelfTestFailure> self_test(Stream& stream, const Hadamard& hadamard) {
  constexpr int64_t vectors = 16;
  const int64_t order = hadamard.order;
  constexpr double allowed = 2e-5;  // fp32 over some ten additions in a row
  const auto failure = [&](const char* property, double seen) -> std::vector<SelfTestFailure> {
    return {{fmt::format("Hadamard transform of {}", order), property, fmt::format("off by {:.2g}", seen),
             fmt::format("at most {}", allowed)}};
  };
  const std::vector<float> signs = rotation_signs(Signs::random, order, RandomStream(1, Purpose::rotation_signs));
  const OwnedTensor x(DType::f32, vectors, order), y(DType::f32, vectors, order), back(DType::f32, vectors, order);
  fill_normal(stream, RandomStream(2, Purpose::initialization), 1 / std::sqrt(static_cast<float>(order)), x);
  quantize(stream, {.values = x}, {.hadamard = &hadamard, .signs = signs}, 0, y);
  unrotate(stream, y, Axis::cols, &hadamard, signs, {}, back);
  double products = 0, returned = 0;
  for (int64_t i = 0; i < vectors; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      double difference = 0;
      for (int64_t k = 0; k < order; ++k) {
        difference += double{y.view().row<float>(i)[k]} * y.view().row<float>(j)[k] -
                      double{x.view().row<float>(i)[k]} * x.view().row<float>(j)[k];
        if (i == j)
          returned = std::max(returned, std::abs(double{back.view().row<float>(i)[k]} - x.view().row<float>(i)[k]));
      }
      products = std::max(products, std::abs(difference));
    }
  if (!(products <= allowed)) return failure("products of vectors stay", products);
  if (!(returned <= allowed)) return failure("the transform is undone", returned);
  return {};
}

}  // namespace nibble
