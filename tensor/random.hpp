// Counter-based randomness: a pure function of (seed, purpose, step, tensor, element).
//
// Philox4x32-10 of Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
// No generator has state, so results depend neither on threads and ranks nor on what ran before.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace nibble {

using PhiloxBlock = std::array<uint32_t, 4>;

/// Ten rounds of Philox4x32; multipliers and Weyl constants from the paper's table 2.
constexpr PhiloxBlock philox(PhiloxBlock counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

/// What a random number is for; part of the counter, so that no two uses share numbers. Values stand in files: append
/// only.
enum class Purpose : uint32_t {
  initialization = 1,
  shuffle = 2,
  sampling = 3,
  rounding = 4,        ///< of elements to a format: 16 bits each
  scale_rounding = 5,  ///< of block scales
  rotation_signs = 6,
  moment_rounding = 7  ///< of optimizers' moments: 16 bits each
};

/// The random numbers of one (seed, purpose, step, tensor).
class RandomStream {
 public:
  RandomStream(uint64_t seed, Purpose purpose, uint32_t step = 0, uint32_t tensor = 0)
      : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
        step_(step),
        tensor_(tensor),
        purpose_(static_cast<uint32_t>(purpose) << 24) {}

  /// Four 32-bit words; block < 2^56 (its high 24 bits share a counter word with the purpose).
  constexpr PhiloxBlock block(uint64_t index) const { return philox(counter(index), key_); }
  /// What block() puts through the generator, for whoever computes several blocks at once.
  constexpr PhiloxBlock counter(uint64_t index) const {
    return {static_cast<uint32_t>(index), step_, tensor_, purpose_ | static_cast<uint32_t>(index >> 32)};
  }
  constexpr std::array<uint32_t, 2> key() const { return key_; }
  constexpr uint32_t word(uint64_t element) const { return block(element / 4)[element % 4]; }

  /// Uniform in [0, 1) with 24 bits.
  constexpr float uniform(uint64_t element) const { return static_cast<float>(word(element) >> 8) * 0x1p-24f; }

  /// Two independent standard normals (Box-Muller in double; 32-bit uniforms reach 6.6 standard deviations).
  std::array<float, 2> normal_pair(uint64_t pair) const {
    const PhiloxBlock words = block(pair / 2);
    const uint32_t first = words[2 * (pair % 2)], second = words[2 * (pair % 2) + 1];
    const double radius = std::sqrt(-2.0 * std::log((first + 0.5) * 0x1p-32));
    const double angle = 2.0 * std::numbers::pi * (second * 0x1p-32);
    return {static_cast<float>(radius * std::cos(angle)), static_cast<float>(radius * std::sin(angle))};
  }

 private:
  std::array<uint32_t, 2> key_;
  uint32_t step_, tensor_, purpose_;
};

}  // namespace nibble
