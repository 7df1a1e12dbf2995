// What each lane of a warp holds of the matrices that tensor cores multiply, as PTX's warp-level instructions lay them
// out (PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type", "ldmatrix").
//
// Lane l holds of an 8 x 8 matrix of bf16 the neighbours [l / 4, 2 (l % 4)] and [l / 4, 2 (l % 4) + 1], the first of
// them in the lower half of a word. Not for: the instructions (kernel.hpp).
#pragma once

#include <cstdint>

namespace nibble::cuda {

/// So many 8 x 8 matrices of bf16.
template <int matrices>
struct Fragment {
  uint32_t pairs[matrices];
};

/// A [16, 16]: its upper left, lower left, upper right, lower right quarter.
using FragmentA = Fragment<4>;
/// B [16, 8] as its transpose [8, 16]: the left half, the right one.
using FragmentB = Fragment<2>;

/// C [16, 8] in f32: lane l holds [l / 4, 2 (l % 4)] and its right neighbour, then the same eight rows below.
struct FragmentC {
  float values[4];
};

}  // namespace nibble::cuda
