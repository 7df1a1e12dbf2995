// Compressors that send some coordinates of a vector as they are: PermK and RandK (Szlendak, Tyurin and Richtarik,
// "Permutation compressors for provably faster distributed nonconvex optimization", arXiv 2110.03300).
//
// Which coordinates is a pure function of the step's random numbers, so no indices travel.
// Not for: the largest values (Top-k), which have to say where they are.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "comm/code_source.hpp"
#include "tensor/host_device.hpp"

namespace nibble {

/// A random order of 0 ... count - 1, in which any place is looked up without the others: eight rounds of a Feistel
/// network over the next even power of two, walked until the result is in range (Black and Rogaway, "Ciphers with
/// arbitrary finite domains", CT-RSA 2002).
class RandomOrder {
 public:
  RandomOrder(int64_t count, const RandomStream& stream, uint32_t part);
  NIBBLE_HOST_DEVICE int64_t operator[](int64_t place) const {
    const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
    uint64_t x = static_cast<uint64_t>(place);
    do {
      uint64_t left = x >> half_bits_, right = x & mask;
      for (const uint32_t key : keys_) {
        const uint64_t next = left ^ (mixed(static_cast<uint32_t>(right) + key) & mask);
        left = right;
        right = next;
      }
      x = left << half_bits_ | right;
    } while (x >= count_);
    return static_cast<int64_t>(x);
  }

 private:
  /// Every bit of the result depends on every bit of x (the finalizer of MurmurHash3).
  NIBBLE_HOST_DEVICE static uint32_t mixed(uint32_t x) {
    x = (x ^ x >> 16) * 0x85ebca6bu;
    x = (x ^ x >> 13) * 0xc2b2ae35u;
    return x ^ x >> 16;
  }

  uint64_t count_;
  int half_bits_;
  std::array<uint32_t, 8> keys_;  ///< by round
};

/// The coordinates that one rank sends, and the factor that makes their vector unbiased.
class CoordinateSample {
 public:
  /// All ranks cut one random order of the coordinates into chunks, of sizes that differ by at most one: the ranks'
  /// mean is exact where their vectors are equal.
  static CoordinateSample permutation(int64_t count, int ranks, const CodeSource& source);
  /// `kept` coordinates, on each rank others. Throws Error{configuration} unless 1 <= kept <= count.
  static CoordinateSample random(int64_t count, int64_t kept, const CodeSource& source);

  /// Values that are sent.
  NIBBLE_HOST_DEVICE int64_t size() const { return last_ - first_; }
  NIBBLE_HOST_DEVICE float factor() const { return factor_; }
  /// Which is the i-th of them.
  NIBBLE_HOST_DEVICE int64_t coordinate(int64_t i) const { return order_[first_ + i]; }
  /// sent = what goes on the wire: the factor times the coordinates' values.
  void select(std::span<const float> values, std::span<float> sent) const;
  /// sum += the sparse vector that `sent` stands for.
  void add(std::span<const float> sent, std::span<float> sum) const;

 private:
  CoordinateSample(const RandomOrder& order, int64_t first, int64_t last, float factor)
      : order_(order), first_(first), last_(last), factor_(factor) {}

  RandomOrder order_;
  int64_t first_, last_;  ///< places in the order
  float factor_;
};

}  // namespace nibble
