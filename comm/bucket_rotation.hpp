// A bucket of a gradient turned by random signs and a Hadamard transform: whatever it held, each value is then close to
// normal, and the largest magnitude close to the root mean square (Suresh et al., arXiv 1611.00429, section 3).
//
// Not for: operands of GEMMs (quant/hadamard.hpp), which lie sixteen rows at a time.
#pragma once

#include <cstdint>
#include <span>

#include "tensor/random.hpp"

namespace nibble {

/// x becomes H D x / sqrt(n), with n = x.size() a power of two and D's signs from `part` of the stream.
void rotate_bucket(std::span<float> x, const RandomStream& stream, uint32_t part);

/// The reverse: D H x / sqrt(n).
void unrotate_bucket(std::span<float> x, const RandomStream& stream, uint32_t part);

}  // namespace nibble
