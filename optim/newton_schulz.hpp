// Newton-Schulz iterations: a matrix becomes nearly its orthogonal polar factor, by products of matrices alone.
//
// Each step applies an odd polynomial p(x) = a x + b x^3 + c x^5 to all singular values at once:
//   A = X Xᵀ;   X <- a X + (b A + c A²) X
// Tables of coefficients trade how far small singular values are lifted against how near to 1 all of them end.
// Not for: what is orthogonalised, and how long the step is (muon.hpp).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

enum class NewtonSchulzTable {
  classic,        ///< (3.4445, -4.775, 2.0315) in each step: Jordan et al., "Muon", 2024
  tuned,          ///< five polynomials, as in Microsoft's Dion (Ahn et al., arXiv 2504.05295)
  polar_express,  ///< of which each is the best after those before: Amsel et al., arXiv 2505.16932
};

struct NewtonSchulzSettings {
  NewtonSchulzTable table = NewtonSchulzTable::classic;
  int64_t steps = 5;
  DType operands = DType::bf16;  ///< of the products, or f32; sums are f32
};

/// p(x) = a x + b x^3 + c x^5
struct Quintic {
  double a, b, c;
};

/// The first `steps` polynomials of a table; where it has fewer, its last one again.
std::vector<Quintic> newton_schulz_polynomials(NewtonSchulzTable table, int64_t steps);

/// What a matrix of this Frobenius norm is divided by.
struct NormDivisor {
  double slope, offset;

  constexpr double operator()(double norm) const { return slope * norm + offset; }
};

/// Before the first step.
NormDivisor newton_schulz_divisor(NewtonSchulzTable table);

/// Multiplications and additions for a matrix [rows, cols].
double newton_schulz_operations(int64_t rows, int64_t cols, int64_t steps);

/// Owns what the iteration works in.
class NewtonSchulz {
 public:
  struct Shape {
    int64_t rows, cols;
  };

  /// `shapes`: of all matrices to come, for which memory is taken; `beside_others`: of those that come while other
  /// threads have one each; `place`: where they are. Throws Error{configuration} for no steps.
  NewtonSchulz(const NewtonSchulzSettings& settings, std::span<const Shape> shapes,
               std::span<const Shape> beside_others = {}, int threads = 1, Place place = Place::host);

  /// What its products take beside the memory that it owns (tensor/gemm.hpp).
  static size_t gemm_scratch_bytes(const Stream& stream, const NewtonSchulzSettings& settings,
                                   std::span<const Shape> shapes);

  /// Replaces `matrix` (f32 or bf16 [rows, cols], packed): singular values s become p(... p(s / divisor)), the singular
  /// vectors stay. A matrix of zeros stays zero. Tall ones are transposed meanwhile, so that A is the smaller product.
  /// Gives the same bits with any number of threads, and where it is one thread's task.
  void operator()(Stream& stream, const Tensor& matrix, int64_t thread = 0);

  /// |O Oᵀ - 1|_F / sqrt(m) of such a matrix O, m its shorter side: 0 if it is orthogonal, 1 of zeros, and the root of
  /// the mean of (s^2 - 1)^2 over its singular values s. One product of the settings' operands.
  double orthogonality_error(Stream& stream, const Tensor& matrix, int64_t thread = 0);

 private:
  NewtonSchulzSettings settings_;
  std::vector<Quintic> polynomials_;
  /// Each as large as the largest matrix needs it.
  struct Memory {
    Tensor x, operand, square, fourth, factor;
  };
  static Memory take(Arena& arena, DType operands, std::span<const Shape> shapes);

  Arena arena_;
  std::vector<Memory> memories_;  ///< by thread
};

}  // namespace nibble
