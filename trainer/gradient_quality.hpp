// How good the gradient of a recipe is on one batch: its direction by depth, and what remains of its error when
// stochastic rounding and rotations are drawn again and again.
//
// The measures are those of Quartet's alignment through depth (arXiv 2505.14669) and Quartet II's concentration of
// gradients (arXiv 2601.22813). Not for: the tables (diagnosis_output.hpp), choosing the batch (command_diagnose.hpp).
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "data/loader.hpp"
#include "model/llama.hpp"
#include "trainer/operand_statistics.hpp"

namespace nibble {

/// How a gradient a lies to a gradient b.
struct Alignment {
  double cosine = 0;      ///< <a, b> / (|a| |b|)
  double projection = 0;  ///< <a, b> / <b, b>: 1 where a is b plus unbiased noise
};

struct ErrorOfMean {
  int64_t draws = 0;
  /// |mean of the draws - g|^2 / |g|^2, the median over the matrices of the blocks. Unbiased draws: falls as 1 / draws.
  double median = 0;
};

/// Draws of a gradient beside what they should be in the mean.
struct Comparison {
  std::vector<Alignment> residual;  ///< of the stream in front of block [0, layers), and behind the last; mean of draws
  std::vector<Alignment> weights;   ///< of the matrices of block [0, layers); mean of draws
  std::vector<ErrorOfMean> errors;  ///< of 1, 4, 16 ... draws and of all
};

struct GradientQuality {
  std::string recipe;
  double loss = 0;  ///< nats per token, forward pass as the recipe says
  std::vector<OperandStatistic> operands{};

  /// The recipe's backward pass behind a forward pass that is not quantized, beside the gradient in fp32. All but the
  /// quantizers is fp32: nothing but them is left in the error.
  Comparison backward{};
  /// The recipe's backward pass behind its own forward pass, beside the gradient without quantizers of what that
  /// forward pass multiplied. All but the quantizers is fp32.
  Comparison own_forward{};
  /// The recipe as it trains, in bf16, beside the gradients in fp32 and in bf16.
  Comparison whole_to_fp32{}, whole_to_bf16{};
};

struct DiagnosisOptions {
  int64_t draws = 64;
  uint64_t seed = 1;                  ///< of the recipes' random numbers
  std::function<void()> pass_done{};  ///< told of each forward and backward pass
};

/// Forward and backward passes that diagnose_gradients() makes.
int64_t diagnosis_passes(int64_t recipes, int64_t draws);

struct GradientDiagnosis {
  double loss = 0;        ///< in fp32, nats per token
  Alignment bf16{};       ///< of all matrices of the blocks, to fp32: what bf16 alone costs
  double bf16_error = 0;  ///< its error, as ErrorOfMean has it
  std::vector<GradientQuality> recipes{};
};

/// Gradients of `batch` at `weights`, which are rounded to bf16 first. Throws Error{configuration} where a recipe does
/// not fit the model or the batch, Error{data} where no token of the batch counts, Error{numerics} where a gradient is
/// not finite or zero.
GradientDiagnosis diagnose_gradients(Stream& stream, const ModelConfig& config, const ParameterSet& weights,
                                     const Batch& batch, std::span<const Recipe> recipes,
                                     const DiagnosisOptions& options);

}  // namespace nibble
