#include "quant/cpu/tile_kernels_body.hpp"

namespace nibble {

#if defined(__x86_64__)
const TileKernels& avx512_tile_kernels();
#endif

const TileKernels& tile_kernels([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return avx512_tile_kernels();
#endif
  return compiled;
}

}  // namespace nibble
