// Matrix products: fp32, bf16 with fp32 accumulation, and int8 with exact sums.
//
// On a device cuBLASLt multiplies (cuda/cublaslt.hpp); what follows is the host's.
// Computed by Nibble's own kernels over packed operands (packed_gemm.hpp) where they are faster, else by oneDNN
// (cpu/onednn_gemm.hpp). Processor, instruction set, operand type and shape decide, so a run that goes on elsewhere may
// round otherwise, and one that goes on here does not. With NIBBLE_GEMM=packed or onednn in the environment the one or
// the other multiplies wherever it can: for comparisons, as is NIBBLE_GEMM=emulated on a device (coded_gemm.hpp).
// Not for: quantizing. Operands come from quant/ as bf16 that holds elements times block scales, or as int8 codes;
// their tensor and row scales are multiplied in here.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "tensor/scalar.hpp"
#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

enum class Transpose : bool { no, yes };

/// What a product of quantized operands is multiplied with:
/// c[i,j] = ((sum * factor) * rows[i]) * cols[j] + addend[i,j], each operation rounded in f32,
/// sum = sum over l of (a[i,l] + a_offset)(b[l,j] + b_offset).
struct Scaling {
  Scalar factor = 1;
  Tensor rows{};  ///< f32 [1, M]; empty: ones
  Tensor cols{};  ///< f32 [1, N]; empty: ones
  /// Of codes in i8 alone: QuEST's half-odd levels are stored k and mean k + 0.5. The sum is exact, and rounded once to
  /// f32, for offsets that are multiples of 1/2.
  float a_offset = 0, b_offset = 0;

  bool has_offsets() const { return a_offset != 0 || b_offset != 0; }
  bool trivial() const { return !factor.on_device() && float{factor} == 1 && !rows && !cols && !has_offsets(); }
};

/// 2^31 / 2^14, rounded down: so many products of -128 by -128 do not reach 2^31.
inline constexpr int64_t largest_i8_depth = 131071;

/// c[M,N] = op(a)[M,K] op(b)[K,N] + addend[M,N], where op transposes if asked; the product scaled as `scaling` says.
///
/// a and b are both f32 (then c is f32), or both bf16 or both i8 (then c is f32 or bf16). Of i8, sums are exact in i32
/// and rounded once to f32; the depth is at most largest_i8_depth. `addend` is absent (default), c itself (then c must
/// be f32: c += a b), or another f32 matrix. Entered by the main thread; uses the stream's threads. Errors:
/// Error{internal} when shapes or types do not fit, Error{resource} when the library fails, Error{configuration} for an
/// unknown or unavailable NIBBLE_GEMM, Error{checkpoint} for an algorithm of choose_gemms() that is not there.
void gemm(Stream& stream, const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b,
          const Tensor& c, const Tensor& addend = {}, const Scaling& scaling = {});

/// The same, not scaled, on the calling thread alone, for use inside parallel_tasks.
void gemm_in_task(Stream& stream, const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b,
                  const Tensor& c, const Tensor& addend = {});

/// What products take beside their operands and keep for the next ones, at most, where no a, b and c of `operands` has
/// more elements than these, or than measure_gemm_peak's, and no scaled one a c of more than `scaled_c`: packed blocks,
/// copies of what must be widened, sums before they are scaled, and on the host the library's working memory.
size_t gemm_scratch_bytes(const Stream& stream, DType operands, int64_t a, int64_t b, int64_t c, int64_t scaled_c = 0);

/// What multiplies operands of a type (u8: codes), "packed FMA 16x32", "oneDNN 2.6.3, <instruction set>" or "cuBLASLt
/// 13.1.0": part of what a run records as tuned.
std::string gemm_library(const Stream& stream, DType operands);

/// The library's algorithms on a device, by product: each a text of its configuration, or "none" (coded_gemm.hpp).
using GemmRecord = std::map<std::string, std::string>;
/// From its next product on, a device's stream multiplies as `known` says. For products that are not there the library
/// chooses or, with `tune`, the fastest of those that it proposes: timed at first use, which waits for the device.
/// Throws Error{checkpoint} for another text.
void choose_gemms(Stream& stream, const GemmRecord& known, bool tune);
/// What was known and what has been chosen since. Empty of the host's stream.
GemmRecord chosen_gemms(Stream& stream);

/// TFLOP/s that all threads reach together in this moment: the tile kernel on operands in the first cache, or, where
/// oneDNN multiplies, the best of several products of 1024 x 1024 matrices. Takes 0.01 to 0.15 s.
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
