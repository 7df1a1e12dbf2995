#include "optim/weight_decay.hpp"

#include "optim/name_patterns.hpp"

namespace nibble {

std::vector<bool> weight_decay_mask(const std::vector<ParameterInfo>& parameters,
                                    const std::vector<std::string>& no_decay) {
  std::vector<bool> mask(parameters.size(), true);
  for (size_t i = 0; i < parameters.size(); ++i) mask[i] = parameters[i].kind != ParameterKind::step;
  for (const std::string& pattern : no_decay)
    for (const size_t i : matching(pattern, parameters, "optimizer.no_decay")) mask[i] = false;
  return mask;
}

}  // namespace nibble
