#include "trainer/capacity.hpp"

#include <algorithm>
#include <cmath>

#include "quant/format_measurement.hpp"

namespace nibble {
namespace {

/// Table of arXiv 2506.01863: F 0.41 +- 0.02 and 0.37 +- 0.04, C 1.39 +- 0.08 and 1.24 +- 0.13, L_sat 1.0 +- 0.7 and
/// 0.84 +- 0.10.
constexpr CapacityConstants published[] = {{"llama", "Llama, C4", 1.0, 0.41, 1.39},
                                           {"olmo2", "OLMo2, ClimbMix", 0.84, 0.37, 1.24}};

/// log2 of the block of a scale for each channel in Capybara's fit.
constexpr double log_block_of_channels = 13.1567;

}  // namespace

std::span<const CapacityConstants> published_capacity() { return published; }

double log_quarter(double error) { return -std::log2(error) / 2; }

double capacity(double error, const CapacityConstants& constants) {
  if (error <= 0) return 1;
  if (error >= 1) return 0;
  return constants.saturation * std::pow(std::tanh(constants.factor * log_quarter(error)), constants.power);
}

std::vector<std::optional<double>> gaussian_errors(Stream& stream, std::span<const Quantizer> quantizers, int64_t parts,
                                                   const std::function<void(int64_t, int64_t)>& progress) {
  std::vector<QuantizerRow> rows;
  const auto place_of = [&](const Quantizer& quantizer) {
    return std::ranges::find(rows, quantizer, &QuantizerRow::quantizer);
  };
  for (const Quantizer& quantizer : quantizers)
    if (quantizer.quantizes() && !quantizer.learns() && place_of(quantizer) == rows.end())
      rows.push_back({.name = quantizer.element->name, .quantizer = quantizer});
  std::vector<QuantizerMeasurement> measured;
  if (!rows.empty()) measured = measure(stream, rows, parts, progress);
  std::vector<std::optional<double>> errors;
  for (const Quantizer& quantizer : quantizers) {
    const auto row = place_of(quantizer);
    if (row != rows.end()) errors.emplace_back(measured[static_cast<size_t>(row - rows.begin())].error.measured.value);
    else if (quantizer.quantizes()) errors.emplace_back();
    else errors.emplace_back(0);
  }
  return errors;
}

FormatFacts format_facts(const ForwardRecipe& recipe) {
  FormatFacts facts;
  const Quantizer* operands[] = {&recipe.weight, &recipe.input};
  for (size_t i = 0; i < 2; ++i) facts.bits[i] = operands[i]->quantizes() ? operands[i]->element->bits() : 16;
  const Quantizer& weight = recipe.weight;
  if (!weight.quantizes() || weight.element->fixed_point() || weight.extent == Extent::tensor) return facts;
  facts.exponent_bits = weight.element->exponent_bits;
  facts.mantissa_bits = weight.element->mantissa_bits;
  facts.block = weight.extent == Extent::row      ? std::exp2(log_block_of_channels)
                : weight.extent == Extent::square ? double{1} * weight.group * weight.group
                                                  : weight.group;
  return facts;
}

}  // namespace nibble
