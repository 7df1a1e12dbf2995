// Named shapes of Llama models: a table.
//
// Not for training settings that go with a shape (configs/*.yaml).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

/// A Llama's dimensions; every key head has one query head.
struct Preset {
  std::string_view name;
  int64_t layers, width, heads, head_dim, ffn;
  int64_t vocabulary;  ///< 0: the tokenizer's
};

/// Smallest first: shapes for byte-level work on a laptop, then those of the QuEST and Quartet papers
/// (arXiv 2502.05003 and 2505.14669: heads of 128, FFN llama_ffn(width), vocabulary 32000).
std::span<const Preset> presets();

/// nullptr if there is none of that name.
const Preset* find_preset(std::string_view name);

std::vector<std::string> preset_names();

/// The FFN width of Llama 1 and 2: int(8/3 width) rounded up to a multiple of 256.
int64_t llama_ffn(int64_t width);

}  // namespace nibble
