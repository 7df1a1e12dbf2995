#include "trainer/presets.hpp"

namespace nibble {
namespace {

// clang-format off
constexpr Preset table[] = {
    // name         layers  width  heads  head_dim  ffn  vocabulary
    {"tiny-byte",        4,   128,     2,       64,   384,     0},
    {"llama-2.5m",       6,   192,     3,       64,   512,     0},
    {"llama-30m",        6,   640,     5,      128,  1792, 32000},
    {"llama-50m",        7,   768,     6,      128,  2048, 32000},
    {"llama-100m",       8,  1024,     8,      128,  2816, 32000},
    {"llama-200m",      10,  1280,    10,      128,  3584, 32000},
    {"llama-430m",      13,  1664,    13,      128,  4608, 32000},
    {"llama-800m",      16,  2048,    16,      128,  5632, 32000},
    {"llama-1.7b",      20,  2688,    21,      128,  7168, 32000},
    {"llama-3.2b",      28,  3072,    24,      128,  8192, 32000},
    {"llama-7b",        32,  4096,    32,      128, 11008, 32000},
};
// clang-format on

}  // namespace

std::span<const Preset> presets() { return table; }

const Preset* find_preset(std::string_view name) {
  for (const Preset& preset : table)
    if (preset.name == name) return &preset;
  return nullptr;
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Preset& preset : table) names.emplace_back(preset.name);
  return names;
}

int64_t llama_ffn(int64_t width) {
  constexpr int64_t multiple = 256;
  return (8 * width / 3 + multiple - 1) / multiple * multiple;
}

}  // namespace nibble
