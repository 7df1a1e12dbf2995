#include "tests/quant/reference_quantizers.hpp"

#include <algorithm>
#include <cmath>

namespace nibble::reference {
namespace {

float power(int exponent) { return std::ldexp(1.0f, exponent); }

int exponent_of(float x) { return x == 0 ? -127 : std::ilogb(x); }

// A scale that nothing can be divided by: all is zero, or so small that its scale is.
float one_for_zero(float scale) { return scale == 0 ? 1 : scale; }

int encode(const Element& element, float x, size_t place, std::span<const float> uniforms) {
  return uniforms.empty() ? element.nearest(x) : element.stochastic(x, uniforms[place]);
}

// What a block's amax is brought to, in units of its scale.
float largest_value(const NvQuantizer& quantizer) { return quantizer.element.largest() / quantizer.scale_override; }

float nv_tensor_scale(const Matrix& x, const NvQuantizer& quantizer) {
  return one_for_zero(largest_magnitude(x) / (quantizer.largest_scale * largest_value(quantizer)));
}

float nv_divisor(float scale, float tensor_scale) { return one_for_zero(scale) * tensor_scale; }

float e4m3_of(float x) { return e4m3.value(e4m3.nearest(x)); }

// A grid that a block may take: `gain` times the plain scale, all levels moved by `shift`.
struct Grid {
  float gain, shift;
  std::span<const float> uniforms;
};

std::vector<Grid> grids(const NvQuantizer& quantizer) {
  const std::span<const float> of_four =
      quantizer.uniforms_of_four.empty() ? quantizer.uniforms : quantizer.uniforms_of_four;
  std::vector<Grid> all{{1, 0, quantizer.uniforms}};
  if (quantizer.four_over_six) all.push_back({1.5f, 0, of_four});
  for (const float shift : quantizer.shifts)
    for (const float top : {6.0f, 4.0f}) all.push_back({6 / (top + std::abs(shift)), shift, quantizer.uniforms});
  return all;
}

// One block on one grid.
struct Trial {
  float scale = 0;
  std::vector<int> codes{};
  std::vector<float> values{};
  double error = 0;
};

Trial try_grid(const Matrix& x, const Block& block, const NvQuantizer& quantizer, const Grid& grid,
               float tensor_scale) {
  const float amax = largest_magnitude(x, block);
  Trial trial{.scale = e4m3_of(grid.gain * amax / largest_value(quantizer) / tensor_scale)};
  for (const size_t i : block) {
    const float y = x.values[i] / nv_divisor(trial.scale, tensor_scale) - grid.shift;
    const int code = encode(quantizer.element, y, i, grid.uniforms);
    const float level = quantizer.element.value(code);
    const float value = (grid.shift == 0 ? level : level + grid.shift) * (trial.scale * tensor_scale);  // -0 stays
    trial.codes.push_back(code);
    trial.values.push_back(value);
    trial.error += std::pow(double{x.values[i]} - value, 2);
  }
  return trial;
}

}  // namespace

ReferenceQuantized quantize_absmax(const Matrix& x, const Element& element, Extent extent, float factor) {
  ReferenceQuantized result(x);
  for (const Block& block : blocks(x, extent)) {
    const float scale = one_for_zero(factor * largest_magnitude(x, block) / element.largest());
    result.scales.push_back(scale);
    for (const size_t i : block) {
      const int code = element.nearest(x.values[i] / scale);
      result.set(i, code, element.value(code) * scale);
    }
  }
  return result;
}

int mx_exponent(float amax, const Element& element, ExponentRule rule) {
  int exponent = exponent_of(amax) - element.largest_exponent();
  if (rule == ExponentRule::even && amax >= (2 - power(-element.mantissa_bits - 1)) * power(exponent_of(amax)))
    ++exponent;
  if (rule == ExponentRule::ceil) {
    const float ratio = amax / element.largest();
    exponent = exponent_of(ratio) + (ratio > power(exponent_of(ratio)) ? 1 : 0);
  }
  return std::clamp(exponent, -127, 127);
}

ReferenceQuantized quantize_mx(const Matrix& x, const MxQuantizer& quantizer) {
  const Element& element = quantizer.element;
  ReferenceQuantized result(x);
  result.tensor_scale = quantizer.compensation;
  for (const Block& block : blocks(x, {1, 32})) {
    const float scale = power(mx_exponent(largest_magnitude(x, block), element, quantizer.rule));
    result.scales.push_back(scale);
    for (const size_t i : block) {
      const int code = encode(element, quantizer.shrink * x.values[i] / scale, i, quantizer.uniforms);
      result.set(i, code, element.value(code) * scale * quantizer.compensation);
    }
  }
  return result;
}

ReferenceQuantized quantize_nv(const Matrix& x, const NvQuantizer& quantizer) {
  ReferenceQuantized result(x);
  result.tensor_scale = nv_tensor_scale(x, quantizer);
  for (const Block& block : blocks(x, quantizer.extent)) {
    Trial best;
    uint8_t choice = 0, next = 0;
    for (const Grid& grid : grids(quantizer)) {
      Trial trial = try_grid(x, block, quantizer, grid, result.tensor_scale);
      if (next == 0 || trial.error < best.error) best = std::move(trial), choice = next;
      ++next;
    }
    result.scales.push_back(best.scale);
    result.choices.push_back(choice);
    for (size_t i = 0; i < block.size(); ++i) result.set(block[i], best.codes[i], best.values[i]);
  }
  return result;
}

ReferenceQuantized quantize_ms_eden(const Matrix& rotated, int64_t group, std::span<const float> uniforms,
                                    float largest_scale) {
  const float scale_override = 0.988125f;  // 0.93 * 17/16
  const NvQuantizer nearest{.largest_scale = largest_scale, .scale_override = scale_override};
  ReferenceQuantized result = quantize_nv(rotated, nearest);
  for (const Block& sharing : blocks(rotated, {1, group})) {
    double energy = 0, projection = 0;
    for (const size_t i : sharing) {
      const double y = rotated.values[i] / nv_divisor(result.scales[i / 16], result.tensor_scale);
      energy += y * y;
      projection += y * e2m1.value(result.codes[i]);
    }
    const float correction = projection == 0 ? 1 : static_cast<float>(energy / projection);
    for (size_t block = sharing.front() / 16; block <= sharing.back() / 16; ++block) {
      const int code = e4m3.stochastic(correction * result.scales[block], uniforms[block]);
      result.scales[block] = e4m3.value(code);
    }
  }
  for (size_t i = 0; i < rotated.values.size(); ++i)
    result.values[i] = e2m1.value(result.codes[i]) * (result.scales[i / 16] * result.tensor_scale);
  return result;
}

}  // namespace nibble::reference
