#include "quant/weight_codes.hpp"

#include <algorithm>

namespace nibble {

std::optional<WeightCodes> weight_codes(const Recipe& recipe) {
  const Quantizer& q = recipe.forward.weight;
  const GradientRecipe& gradient = recipe.backward.input;
  const bool of_w_alone = q.needs_tensor_statistic() && q.extent == Extent::tensor && q.history == 0 &&
                          q.rounding == Rounding::nearest && q.packable() && q.mask == MaskRule::all;
  const bool multiplied_backward =
      gradient.source == Source::multiplied && !gradient.other.quantizes() && !gradient.rotation;
  if (!of_w_alone || !multiplied_backward) return {};
  return WeightCodes{recipe.forward.rotation, q};
}

std::optional<WeightCodes> weight_codes(const std::vector<Precision::Phase>& phases) {
  const std::optional<WeightCodes> first = weight_codes(phases.front().recipe);
  const bool same =
      std::ranges::all_of(phases, [&](const Precision::Phase& phase) { return weight_codes(phase.recipe) == first; });
  return same ? first : std::nullopt;
}

}  // namespace nibble
