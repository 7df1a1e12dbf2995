// Vectors among which the largest are hard to tell: equal magnitudes, no numbers, all bits.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace nibble::test {

struct Input {
  std::string name;
  std::vector<float> values;
};

inline std::vector<Input> inputs(size_t count) {
  std::mt19937 random(static_cast<uint32_t>(count));
  std::normal_distribution<float> normal;
  std::vector<Input> list;
  const auto add = [&](const char* name, auto make) {
    std::vector<float> values(count);
    for (size_t i = 0; i < count; ++i) values[i] = make(i);
    list.push_back({name, std::move(values)});
  };
  add("normal", [&](size_t) { return normal(random); });
  add("normal cubed", [&](size_t) { return std::pow(normal(random), 3.0f); });
  add("all bits", [&](size_t) { return std::bit_cast<float>(static_cast<uint32_t>(random())); });
  add("all equal", [](size_t i) { return i % 2 ? 1.5f : -1.5f; });
  add("all zero", [](size_t i) { return i % 3 ? 0.0f : -0.0f; });
  add("all NaN", [](size_t i) { return i % 2 ? std::nanf("7") : -std::numeric_limits<float>::infinity(); });
  add("few NaN", [&](size_t) { return random() % 100 == 0 ? -std::nanf("") : normal(random); });
  add("denormal", [&](size_t) { return std::bit_cast<float>(static_cast<uint32_t>(random() & 0x8000ffffu)); });
  add("three values", [&](size_t) { return static_cast<float>(static_cast<int>(random() % 3) - 1); });
  add("ascending", [](size_t i) { return static_cast<float>(i); });
  add("descending", [count](size_t i) { return static_cast<float>(count - i); });
  add("one unit apart",
      [&](size_t) { return std::bit_cast<float>(0x3f800000u + static_cast<uint32_t>(random() % 5)); });
  add("one of many", [](size_t i) { return i % 512 == 511 ? 1.0f : 0.0f; });
  return list;
}

}  // namespace nibble::test
