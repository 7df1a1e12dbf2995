// The one door to oneDNN, 2.6 and 3.x, which picks AMX, AVX-512 or AVX2 kernels at run time.
//
// Primitives are made once for each shape and kept. Where the processor or the library has no bf16 GEMM, the operands
// are widened to fp32: the products are the same (bf16 products are exact in fp32), the order of the sums is the
// library's.
#pragma once

#include <string>

#include "tensor/packed_gemm.hpp"

namespace nibble {

/// Throws Error{resource} when oneDNN fails.
void onednn_gemm(Stream& stream, int threads, const Product& product);

/// As gemm_scratch_bytes.
size_t onednn_scratch_bytes(int threads, DType operands, int64_t a, int64_t b, int64_t c, int64_t scaled_c);

/// Whether the library uses AMX here.
bool onednn_has_amx();

/// Of a dnnl_cpu_isa_t. That is a set of features: one that only a later version or processor has contains those below
/// it, and goes by the widest of these.
bool onednn_isa_has_amx(int isa);
std::string onednn_isa_name(int isa);

/// "oneDNN 2.6.3, <instruction set>"
std::string onednn_description();

}  // namespace nibble
