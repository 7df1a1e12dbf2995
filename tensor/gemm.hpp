// Matrix products: fp32, and bf16 with fp32 accumulation.
//
// The one door to oneDNN (2.6 and 3.x), which picks AMX, AVX-512 or AVX2 kernels at run time. Primitives are made
// once for each shape and kept. Where the processor or the library has no bf16 GEMM, the operands are widened to
// fp32: the products are the same (bf16 products are exact in fp32), the order of the sums is the library's.
// Not for: quantized operands (quant/ brings them to bf16 or to a native format first).
#pragma once

#include <memory>
#include <string>

#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

enum class Transpose : bool { no, yes };

/// c[M,N] = op(a)[M,K] op(b)[K,N] + addend[M,N], where op transposes if asked.
///
/// a and b are both f32 (then c is f32) or both bf16 (then c is f32 or bf16). `addend` is absent (default), c itself
/// (then c must be f32: c += a b), or another f32 matrix. Entered by the main thread; uses the stream's threads.
/// Errors: Error{internal} when shapes or types do not fit, Error{resource} when oneDNN fails.
void gemm(Stream& stream, const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b,
          const Tensor& c, const Tensor& addend = {});

/// The same on the calling thread alone, for use inside parallel_tasks.
void gemm_in_task(Stream& stream, const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b,
                  const Tensor& c, const Tensor& addend = {});

/// "oneDNN 2.6.3, <instruction set>": part of what a run records as tuned.
std::string gemm_library();

/// TFLOP/s of the best of several products of 1024 x 1024 matrices: the peak that a run's progress is measured
/// against. Takes 0.15 s.
double measure_gemm_peak(Stream& stream, DType type);

/// Ready primitives by shape; owned by a stream.
class GemmCache {
 public:
  GemmCache();
  ~GemmCache();
  struct Entries;
  Entries& entries() { return *entries_; }

 private:
  std::unique_ptr<Entries> entries_;
};

}  // namespace nibble
