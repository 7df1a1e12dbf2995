#include "optim/optimizer.hpp"

#include <algorithm>
#include <cassert>

#include "optim/kernels.hpp"
#include "tensor/convert.hpp"

namespace nibble {

std::vector<OptimizedParameter> optimized_parameters(const ParameterLayout& layout, const ParameterSet& masters,
                                                     const ParameterSet& gradients, const ParameterSet& working,
                                                     const std::vector<bool>& decay) {
  const std::vector<ParameterInfo>& infos = layout.parameters();
  assert(masters.size() == infos.size() && gradients.size() == infos.size() && working.size() == infos.size() &&
         decay.size() == infos.size());
  std::vector<OptimizedParameter> parameters;
  parameters.reserve(infos.size());
  for (size_t i = 0; i < infos.size(); ++i)
    parameters.push_back({&infos[i], masters[i], gradients[i], working[i], decay[i]});
  return parameters;
}

std::vector<ParameterBlock> parameter_blocks(std::span<const OptimizedParameter> parameters) {
  std::vector<ParameterBlock> blocks;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const OptimizedParameter& parameter = parameters[i];
    const int64_t size = parameter.master.size();
    assert(parameter.master.contiguous() && parameter.gradient.contiguous());
    assert(parameter.gradient.size() == size && parameter.working.size() == size);
    for (int64_t first = 0; first < size; first += block_elements)
      blocks.push_back({static_cast<int64_t>(i), first, std::min(block_elements, size - first)});
  }
  return blocks;
}

void refresh_working_copies(Stream& stream, std::span<const OptimizedParameter> parameters) {
  for (const OptimizedParameter& parameter : parameters) convert(stream, parameter.master, parameter.working);
}

}  // namespace nibble
