#include "model/rope.hpp"

#include <cmath>
#include <numbers>
#include <utility>

#include "tensor/convert.hpp"

namespace nibble {

std::vector<double> rope_frequencies(const ModelConfig& config) {
  std::vector<double> frequencies;
  for (int64_t i = 0; i < config.head_dim / 2; ++i) {
    const double frequency =
        std::pow(config.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim));
    if (!config.rope_scaling) {
      frequencies.push_back(frequency);
      continue;
    }
    const RopeScaling& scaling = *config.rope_scaling;
    const double turns = static_cast<double>(scaling.original_context) * frequency / (2 * std::numbers::pi);
    // 1 keeps the frequency, 0 divides it by the factor; in between by how often it turns within the context.
    const double kept = std::clamp(
        (turns - scaling.low_frequency_factor) / (scaling.high_frequency_factor - scaling.low_frequency_factor), 0.0,
        1.0);
    frequencies.push_back(frequency * ((1 - kept) / scaling.factor + kept));
  }
  return frequencies;
}

RopeTable::RopeTable(const ModelConfig& config, int64_t positions)
    : cos_(DType::f32, positions, config.head_dim / 2, "RoPE table"),
      sin_(DType::f32, positions, config.head_dim / 2, "RoPE table") {
  const std::vector<double> frequencies = rope_frequencies(config);
  for (int64_t p = 0; p < positions; ++p)
    for (size_t i = 0; i < frequencies.size(); ++i) {
      const double angle = static_cast<double>(p) * frequencies[i];
      cos_.view().row<float>(p)[i] = static_cast<float>(std::cos(angle));
      sin_.view().row<float>(p)[i] = static_cast<float>(std::sin(angle));
    }
}

RopeTable::RopeTable(Stream& stream, const ModelConfig& config, int64_t positions) : RopeTable(config, positions) {
  if (!stream.on_device()) return;
  for (OwnedTensor* const table : {&cos_, &sin_}) {
    OwnedTensor there(DType::f32, positions, config.head_dim / 2, "RoPE table", Place::device);
    copy(stream, *table, there);
    stream.wait();
    *table = std::move(there);
  }
}

}  // namespace nibble
