// The kernels themselves; included by code_kernels_avx2.cpp and code_kernels_avx512.cpp, each for its instruction set.
#pragma once

#include "comm/cpu/correlated_kernels.hpp"
#include "comm/cpu/level_kernels.hpp"
#include "comm/cpu/packing_kernels.hpp"
#include "comm/cpu/rotation_kernels.hpp"
#include "comm/cpu/value_kernels.hpp"

namespace nibble {
namespace {

constexpr CodeKernels compiled{largest_magnitude_bits,
                               extremes,
                               squared_norm,
                               encode_nearest,
                               encode_stochastic,
                               decode_levels,
                               encode_normal,
                               decode_normal,
                               encode_float8,
                               decode_float8,
                               encode_correlated,
                               pack,
                               unpack,
                               largest_code,
                               rotate,
                               unrotate};

}  // namespace
}  // namespace nibble
