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

namespace nibble {

/// A random order of 0 ... count - 1, in which any place is looked up without the others: eight rounds of a Feistel
/// network over the next even power of two, walked until the result is in range (Black and Rogaway, "Ciphers with
/// arbitrary finite domains", CT-RSA 2002).
class RandomOrder {
 public:
  RandomOrder(int64_t count, const RandomStream& stream, uint32_t part);
  int64_t operator[](int64_t place) const;

 private:
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
  int64_t size() const { return last_ - first_; }
  float factor() const { return factor_; }
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
