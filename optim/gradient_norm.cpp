#include "optim/gradient_norm.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>
#include <vector>

#include "optim/kernels.hpp"

namespace nibble {

double gradient_norm(Stream& stream, std::span<const OptimizedParameter> parameters) {
  const std::vector<ParameterBlock> blocks = parameter_blocks(parameters);
  std::vector<double> sums(blocks.size());
  gradient_square_sums(stream, parameters, blocks, sums);
  return std::sqrt(std::accumulate(sums.begin(), sums.end(), 0.0));
}

double clip_factor(double norm, double max_norm) {
  assert(max_norm >= 0);
  return max_norm == 0 ? 1.0 : std::min(1.0, max_norm / (norm + 1e-6));
}

}  // namespace nibble
