#include "optim/gradient_norm.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>
#include <vector>

#include "optim/kernels.hpp"

namespace nibble {

std::vector<double> gradient_square_sums(Stream& stream, std::span<const Tensor> gradients) {
  const std::vector<TensorBlock> blocks = tensor_blocks(gradients);
  std::vector<double> sums(blocks.size());
  gradient_square_sums(stream, gradients, blocks, sums);
  return sums;
}

double gradient_norm(std::span<const double> square_sums) {
  return std::sqrt(std::accumulate(square_sums.begin(), square_sums.end(), 0.0));
}

double clip_factor(double norm, double max_norm) {
  assert(max_norm >= 0);
  return max_norm == 0 ? 1.0 : std::min(1.0, max_norm / (norm + 1e-6));
}

}  // namespace nibble
