#if defined(__x86_64__)

// What other files share comes first, so that no inline function of theirs is compiled for AVX-512 here.
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cstring>
#include <limits>
#include <utility>

#include "optim/cpu/moment_tile.hpp"

#pragma GCC target("arch=x86-64-v4,prefer-vector-width=512")  // clang: CMakeLists.txt
#define NIBBLE_MOMENTS_FOR_AVX512                             // the pragma does not define __AVX512F__
#include "optim/cpu/moment_pack_body.hpp"

namespace nibble {

const MomentPacking& avx512_moment_packing() { return compiled; }

}  // namespace nibble

#endif
