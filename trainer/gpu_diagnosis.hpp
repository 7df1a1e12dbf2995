// The GPUs that a process may use: what they are, whether they compute right, how fast they multiply.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "quant/recipe.hpp"
#include "tensor/cuda/device.hpp"
#include "tensor/stream.hpp"

namespace nibble {

struct GpuFacts {
  std::string name;
  int architecture = 0;  ///< 90 for compute capability 9.0
  int processors = 0;
  uint64_t memory = 0, free = 0;  ///< bytes
  double peak = 0;                ///< TFLOP/s of bf16 products, measured; 0 where products fail
  double bandwidth = 0;           ///< GB/s of a copy in its memory, bytes read and written
  int64_t wrong = 0;              ///< elements of products with a known answer
  std::string unsound{};          ///< a quantizer whose codes are not the processor's; empty: none
  std::string trouble{};          ///< why it cannot be used; empty: it can
};

void to_json(nlohmann::ordered_json& json, const GpuFacts& facts);
void from_json(const nlohmann::ordered_json& json, GpuFacts& facts);

/// Of all devices that this process may use, with the quantizers of `recipes`; empty where there are none.
std::vector<GpuFacts> examine_gpus(const std::vector<Recipe>& recipes);

/// The first quantizer of `recipes` that writes other values, codes, scales or masks on `device` than on its host;
/// empty: none does.
std::string differing_quantizer(Stream& device, const std::vector<Recipe>& recipes);

/// GB/s of a copy from memory to memory where the stream computes, bytes read and written; the best of several.
double copy_bandwidth(Stream& stream);

}  // namespace nibble
