// The kernels of optim/, one implementation for each device (cpu/).
//
// They go over blocks of 4096 elements that are cut within each parameter, so that small tensors neither wait for nor
// delay large ones, and sums have an order that no number of threads changes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "optim/optimizer.hpp"

namespace nibble {

/// Elements of a block; shards are cut at multiples of it (16 KiB of f32: five streams of it fit a core's L2 cache).
inline constexpr int64_t block_elements = 4096;

/// Elements [first, first + count) of a parameter, row-major in its logical shape.
struct ParameterBlock {
  int64_t parameter = 0;
  int64_t first = 0;
  int64_t count = 0;
};

/// Parameters in order, blocks in order; count < block_elements only in a parameter's last block.
std::vector<ParameterBlock> parameter_blocks(std::span<const OptimizedParameter> parameters);

/// The moments of one parameter, f32, packed, as many elements as the master.
struct AdamMoments {
  Tensor first;
  Tensor second;
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
};

/// One AdamW update of every block; one pass over memory.
void adamw_update(Stream& stream, std::span<const OptimizedParameter> parameters, std::span<const AdamMoments> moments,
                  std::span<const ParameterBlock> blocks, const AdamWFactors& factors);

/// sums[i] = the squares of block i's gradients, added in double over sixteen lanes and a fixed tree.
void gradient_square_sums(Stream& stream, std::span<const OptimizedParameter> parameters,
                          std::span<const ParameterBlock> blocks, std::span<double> sums);

}  // namespace nibble
