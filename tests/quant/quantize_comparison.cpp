#include "tests/quant/quantize_comparison.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace nibble {
namespace {

using reference::Matrix, reference::ReferenceQuantized;

constexpr double last_bits = 1e-6;  // relative: some units in the last place of f32

class Comparison {
 public:
  Comparison(const QuantizerCase& one, const Matrix& x, const QuantizeCall& call = {})
      : one_(one),
        q_(one.quantizer),
        x_(x),
        uniforms_(uniforms_of(x, call)),
        seen_(quantize_matrix(x, q_, call)),
        expected_(one.reference(x, uniforms_)) {
    const reference::Extent extent = q_.extent == Extent::tensor   ? reference::whole_tensor
                                     : q_.extent == Extent::row    ? reference::whole_row
                                     : q_.extent == Extent::square ? reference::square_16
                                                                   : reference::Extent{1, q_.group};
    const std::vector<reference::Block> blocks = reference::blocks(x, extent);
    for (size_t block = 0; block < blocks.size(); ++block) compare_block(block, blocks[block]);
  }
  const Ties& ties() const { return ties_; }

 private:
  void compare_block(size_t number, const reference::Block& block) {
    const float scale = expected_.scales[number];
    if (!seen_.scale_codes.empty() && !scale_agrees(number, block)) return;
    const double step = double{scale == 0 ? 1 : scale} * (q_.scale == ScaleFormat::e4m3 ? expected_.tensor_scale : 1);
    for (const size_t i : block) compare_element(i, q_.shrink * double{x_.values[i]} / step, step);
  }

  /// False where another grid was taken, for a reason.
  bool scale_agrees(size_t number, const reference::Block& block) {
    const auto code = static_cast<int>(seen_.scale_codes[block.front() / q_.group]);
    for (const size_t i : block) EXPECT_EQ(seen_.scale_codes[i / q_.group], code);
    const bool shifted = q_.choice == BlockChoice::shifted && (code & 0x80) != 0;
    const float expected = expected_.scales[number], seen = q_.scale == ScaleFormat::e8m0
                                                                ? std::ldexp(1.0f, code - 127)
                                                                : reference::e4m3.value(code & 0x7f);
    const bool expected_shifted = !expected_.choices.empty() && expected_.choices[number] >= 2;
    if (seen == expected && shifted == expected_shifted) return true;
    const bool open =
        q_.choice != BlockChoice::none && (turns(block, seen) || turns(block, expected) || scale_is_tie(block));
    EXPECT_TRUE(open) << one_ << ", block " << number << ": scale " << seen << (shifted ? " shifted" : "")
                      << ", expected " << expected << (expected_shifted ? " shifted" : "");
    ++ties_.scales;
    return false;
  }

  /// Whether six or four on the largest value needs a scale in the middle of two of E4M3.
  bool scale_is_tie(const reference::Block& block) const {
    const double share = double{reference::largest_magnitude(x_, block)} / reference::largest_magnitude(x_);
    return std::ranges::any_of(std::array{1.0, 1.5}, [&](double gain) {
      const double scale = gain * share * q_.scale_limit;
      const std::vector<double>& scales = reference::e4m3.magnitudes;
      const size_t above = std::ranges::upper_bound(scales, scale) - scales.begin();
      return above < scales.size() && std::abs((scales[above - 1] + scales[above]) / 2 - scale) < last_bits * scale;
    });
  }

  /// Whether an element lies where stochastic rounding to E2M1 turns from one level to the next.
  bool turns(const reference::Block& block, float scale) const {
    const std::vector<double>& levels = reference::e2m1.magnitudes;
    return std::ranges::any_of(block, [&](size_t i) {
      const double y = std::abs(double{x_.values[i]} / (double{scale} * expected_.tensor_scale));
      const size_t above = std::ranges::upper_bound(levels, y) - levels.begin();
      if (above == levels.size()) return false;
      return std::abs(levels[above - 1] + uniforms_.elements[i] * (levels[above] - levels[above - 1]) - y) <
             last_bits * y;
    });
  }

  void compare_element(size_t i, double y, double step) {
    const auto where = [&] {
      return one_.name + ", element " + std::to_string(i) + " = " + std::to_string(y) + " steps";
    };
    if (!seen_.mask.empty() && seen_.mask[i] != expected_.mask[i]) {
      const double distance = q_.mask == MaskRule::clip ? std::abs(y) - q_.mask_width
                                                        : std::abs(y - expected_.values[i] / step) - q_.mask_width;
      ASSERT_LE(std::abs(distance), last_bits * std::abs(y)) << where();
      ++ties_.masks;
    }
    const double seen = seen_.value(i, x_.depth), expected = expected_.values[i];
    if (std::abs(seen - expected) <= last_bits * std::abs(expected)) {
      if (!seen_.codes.empty() && expected_.choices.empty()) {
        ASSERT_EQ(seen_.codes[i], expected_.codes[i]) << where();
      }
      return;
    }
    // One level beside the other, and y where the rounding turns from one to the other.
    const double unit = step * expected_.tensor_scale / (q_.scale == ScaleFormat::e4m3 ? expected_.tensor_scale : 1);
    const double low = std::min(seen, expected) / unit, high = std::max(seen, expected) / unit;
    double turn = 0.5;
    if (q_.rounding == Rounding::stochastic) turn = y > 0 ? uniforms_.elements[i] : 1 - uniforms_.elements[i];
    ASSERT_NEAR(y, low + turn * (high - low), last_bits * std::max(1.0, std::abs(y)))
        << where() << ": " << seen << ", expected " << expected;
    ++ties_.codes;
  }

  const QuantizerCase& one_;
  const Quantizer& q_;
  const Matrix& x_;
  Uniforms uniforms_;
  QuantizedMatrix seen_;
  ReferenceQuantized expected_;
  Ties ties_;
};

}  // namespace

Ties compare_with_reference(const QuantizerCase& one, const Matrix& x, const QuantizeCall& call) {
  return Comparison(one, x, call).ties();
}

}  // namespace nibble
