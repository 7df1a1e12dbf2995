// Hadamard transforms of any order that this construction reaches, and the signs before them.
//
// Order n = 2^k m: Sylvester's doubling around a core of order m that Paley's constructions give from a finite field
// (R. E. A. C. Paley, "On orthogonal matrices", J. Math. Phys. 12, 1933): m = q + 1 for a prime power q = 3 mod 4, or
// m = 2 (q + 1) for q = 1 mod 4.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quant/quantizer.hpp"
#include "tensor/random.hpp"

namespace nibble {

/// H of order `core * doublings`, orthonormal when divided by sqrt(order). Row-major index in a block:
/// core index * doublings + doubled index; the doubled part is (-1)^popcount(i & j).
struct Hadamard {
  int64_t order = 0;
  int64_t doublings = 1;       ///< 2^k
  int64_t core = 1;            ///< m
  float normalization = 1;     ///< 1 / sqrt(order)
  std::vector<float> entries;  ///< of the core, +-1, row-major [m, m]; empty for m = 1

  /// The one with the smallest core. Throws Error{configuration} where there is none, naming the nearest orders.
  static Hadamard of_order(int64_t order, const std::string& where);
  static bool exists(int64_t order);
};

/// The diagonal of D for a rotation of blocks of `size`: +-1, empty without signs; `part` of the stream is the
/// micro-batch. `fixed` signs are those that NVIDIA's recipe publishes for 16 (Transformer Engine), repeated.
std::vector<float> rotation_signs(Signs signs, int64_t size, const RandomStream& random, uint64_t part = 0);

}  // namespace nibble
