// A random order of [0, n) that is never stored: a keyed bijection, evaluated element by element.
//
// A Feistel network over the next even power of two with Philox as its round function; results outside [0, n) are
// encrypted again until they fall inside ("cycle walking"; Black and Rogaway, "Ciphers with arbitrary finite domains",
// CT-RSA 2002), which keeps the map one-to-one. Not for: secrets.
#pragma once

#include <bit>
#include <cassert>
#include <cstdint>

#include "tensor/random.hpp"

namespace nibble {

class Permutation {
 public:
  /// The order number `epoch` under `seed`; n in [1, 2^62].
  Permutation(uint64_t n, uint64_t seed, uint32_t epoch) : n_(n), seed_(seed), epoch_(epoch) {
    assert(n >= 1 && n <= (uint64_t{1} << 62));
    half_bits_ = n <= 4 ? 1 : (std::bit_width(n - 1) + 1) / 2;
  }

  /// The element at place `index` < n. On average under four walks, as the power of two is below 4 n.
  uint64_t operator()(uint64_t index) const {
    assert(index < n_);
    do index = encrypt(index);
    while (index >= n_);
    return index;
  }

 private:
  // Four rounds make a Feistel network over a random function indistinguishable from a random permutation (Luby and
  // Rackoff 1988); eight leave room for the small domains of small data sets.
  static constexpr uint32_t rounds = 8;

  uint64_t encrypt(uint64_t value) const {
    const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
    uint64_t left = value >> half_bits_, right = value & mask;
    for (uint32_t round = 0; round < rounds; ++round) {
      const uint32_t noise = RandomStream(seed_, Purpose::shuffle, epoch_, round).block(right)[0];
      const uint64_t mixed = (left ^ noise) & mask;
      left = right;
      right = mixed;
    }
    return left << half_bits_ | right;
  }

  uint64_t n_, seed_;
  uint32_t epoch_;
  int half_bits_;
};

}  // namespace nibble
