#if defined(__x86_64__)

// What other files share comes first, so that no inline function of theirs is compiled for AVX-512 here.
#include "comm/cpu/code_kernels.hpp"

#pragma GCC target("arch=x86-64-v4,prefer-vector-width=512")  // clang: CMakeLists.txt
#define NIBBLE_TILES_FOR_AVX512                               // the pragma does not define __AVX512F__
#include "comm/cpu/code_kernels_body.hpp"

namespace nibble {

const CodeKernels& avx512_code_kernels() { return compiled; }

}  // namespace nibble

#endif
