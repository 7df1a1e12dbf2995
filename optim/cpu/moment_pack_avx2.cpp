#include "optim/cpu/moment_pack_body.hpp"

namespace nibble {

#if defined(__x86_64__)
const MomentPacking& avx512_moment_packing();
#endif

const MomentPacking& moment_packing([[maybe_unused]] Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return avx512_moment_packing();
#endif
  return compiled;
}

}  // namespace nibble
