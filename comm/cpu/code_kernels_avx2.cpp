#include "comm/cpu/code_kernels_body.hpp"

namespace nibble {

#if defined(__x86_64__)
const CodeKernels& avx512_code_kernels();
#endif

const CodeKernels& code_kernels([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return avx512_code_kernels();
#endif
  return compiled;
}

}  // namespace nibble
