// The kernels of optim/, one implementation for each device (cpu/, cuda/).
//
// They go over the blocks of comm/partition.hpp, so that small tensors neither wait for nor delay large ones, and sums
// have an order that no number of threads or ranks changes. Spans are the host's, also where a stream is a device's.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/partition.hpp"
#include "optim/moment.hpp"
#include "optim/newton_schulz.hpp"
#include "optim/optimizer.hpp"

namespace nibble {

/// Elements [first, first + count) of one of several packed tensors.
struct TensorBlock {
  int64_t tensor = 0;
  int64_t first = 0;
  int64_t count = 0;
};

/// Tensors in order, blocks in order; count < block_elements only in a tensor's last block.
std::vector<TensorBlock> tensor_blocks(std::span<const Tensor> tensors);
/// One for each row of a packed matrix.
std::vector<TensorBlock> row_blocks(const Tensor& matrix);
/// Those of the masters.
std::vector<TensorBlock> master_blocks(std::span<const OptimizedParameter> parameters);

/// The moments of one parameter, in one precision.
struct AdamMoments {
  Moment first, second;
};

/// The factors of one AdamW step, computed in double and rounded once.
struct AdamWFactors {
  float gradient_scale;
  float decay;  ///< 1 - learning_rate * weight_decay, for parameters with decay
  float one_minus_beta1;
  float beta2;
  float one_minus_beta2;
  float step_size;              ///< learning_rate / (1 - beta1^t)
  float sqrt_bias_correction2;  ///< sqrt(1 - beta2^t)
  float epsilon;
  int64_t step;  ///< for the rounding of moments
};

/// One AdamW update of every block; one pass over memory.
void adamw_update(Stream& stream, std::span<const OptimizedParameter> parameters, std::span<const AdamMoments> moments,
                  std::span<const TensorBlock> blocks, const AdamWFactors& factors);

/// second = beta2 second + (1 - beta2) gradient^2, and what AdamW would subtract: direction = step_size first /
/// (sqrt(second) / sqrt_bias_correction2 + epsilon). f32, packed, of one size; `direction` may be one of the others.
void adam_direction(Stream& stream, const Tensor& gradient, const Tensor& first, const Tensor& second,
                    const Tensor& direction, const AdamWFactors& factors);

/// The factors of one step of SGD, computed in double and rounded once.
struct SgdFactors {
  float gradient_scale;
  float decay;  ///< 1 - learning_rate * weight_decay, for parameters with decay
  float momentum;
  float learning_rate;
  int64_t step;  ///< for the rounding of momenta
};

/// One update of every block by SGD. `momenta`: by parameter; none: plain gradients, which may be bf16.
void sgd_update(Stream& stream, std::span<const OptimizedParameter> parameters, std::span<const Moment> momenta,
                std::span<const TensorBlock> blocks, const SgdFactors& factors);

struct MomentumFactors {
  float gradient_scale;
  float momentum;
  bool nesterov;
  int64_t step;  ///< for the rounding of the momentum
};

/// momentum = factor momentum + scale gradient; direction = that, or with Nesterov's look ahead scale gradient + factor
/// momentum. Packed, of one size; the gradient f32, the direction f32 or bf16.
void momentum_update(Stream& stream, const Tensor& gradient, const Moment& momentum, const Tensor& direction,
                     const MomentumFactors& factors);

struct ExtrapolationFactors {
  float gradient_scale;
  float difference;
  int64_t step;  ///< for the rounding of the last gradient
};

/// gradient = g + difference (g - last), last = g, where g = scale gradient; the gradient f32, packed, as many elements
/// as `last`.
void extrapolate(Stream& stream, const Moment& last, const Tensor& gradient, const ExtrapolationFactors& factors);

/// matrix[i, j] *= factors[i]; f32 or bf16.
void scale_rows(Stream& stream, const Tensor& matrix, std::span<const float> factors);

/// The moments of one parameter of AdEMAMix, in one precision.
struct MixedMoments {
  Moment first, slow, second;
};

/// The factors of one AdEMAMix step, computed in double and rounded once.
struct AdEMAMixFactors {
  AdamWFactors adamw;
  float one_minus_beta3;
  float slow_size;  ///< learning_rate * alpha
};

/// One AdEMAMix update of every block; one pass over memory.
void ademamix_update(Stream& stream, std::span<const OptimizedParameter> parameters,
                     std::span<const MixedMoments> moments, std::span<const TensorBlock> blocks,
                     const AdEMAMixFactors& factors);

/// What reorder() moves.
enum class Reordered { rows, columns };
/// to[i, j] = from[order[i], j], or from[i, order[j]] of columns; f32, of one shape, in memory of their own.
void reorder(Stream& stream, const Tensor& from, Reordered which, std::span<const int64_t> order, const Tensor& to);

/// Each master, rounded to nearest, into its working copy.
void round_masters(Stream& stream, std::span<const OptimizedParameter> parameters, std::span<const TensorBlock> blocks);

/// sums[i] = the squares of block i of the gradients (f32 or bf16), added in double over sixteen lanes and a fixed
/// tree.
void gradient_square_sums(Stream& stream, std::span<const Tensor> gradients, std::span<const TensorBlock> blocks,
                          std::span<double> sums);

/// to[i, j] = factor from[i, j], or factor from[j, i] where it is to be transposed; each f32 or bf16.
void scale_into(Stream& stream, const Tensor& from, float factor, bool transpose, const Tensor& to);

/// to = from / divisor(|from|), transposed where it is to be; each f32 or bf16, `from` packed. The norm is that of
/// gradient_norm.hpp, and the factor rounded once.
void normalize_into(Stream& stream, const Tensor& from, const NormDivisor& divisor, bool transpose, const Tensor& to);

/// moments[i] = beta2 moments[i] + (1 - beta2) mean of the squares of row i; each row divided by the root of its moment
/// and the whole brought back to the norm that it had. f32 or bf16, packed; moments f32 [1, rows]. A matrix of zeros
/// stays.
void normalize_rows(Stream& stream, const Tensor& matrix, const Tensor& moments, double beta2);

/// x[i, i] += value; x f32, square.
void add_to_diagonal(Stream& stream, const Tensor& x, float value);

/// copy = x, then x = factor x; x f32, copy f32 or bf16 (rounded to nearest).
void convert_and_scale(Stream& stream, const Tensor& x, const Tensor& copy, float factor);

/// to = a + factor b; a and b f32, to f32 or bf16, or one of the others.
void add_scaled(Stream& stream, const Tensor& a, const Tensor& b, float factor, const Tensor& to);

}  // namespace nibble
