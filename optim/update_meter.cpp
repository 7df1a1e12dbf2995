#include "optim/update_meter.hpp"

#include <algorithm>

#include "comm/partition.hpp"

namespace nibble {

UpdateMeter::UpdateMeter(const std::vector<ParameterInfo>& parameters) : errors_(parameters.size()) {
  size_t blocks = 0;
  for (const ParameterInfo& parameter : parameters) {
    first_block_.push_back(blocks);
    blocks += static_cast<size_t>((parameter.size() + block_elements - 1) / block_elements);
  }
  squares_.resize(blocks);
}

void UpdateMeter::start() {
  on_ = true;
  std::ranges::fill(squares_, 0.0);
  std::ranges::fill(errors_, -1.0);
}

double& UpdateMeter::squares(int parameter, int64_t element) {
  return squares_[first_block_[static_cast<size_t>(parameter)] + static_cast<size_t>(element / block_elements)];
}

}  // namespace nibble
