// The maximal update parametrisation: initial weights and learning rates with which settings tuned at one width suit
// others.
//
// Yang et al., "Tensor Programs V", arXiv 2203.03466, table 3: without multipliers, so that checkpoints stay plain
// Llamas. Of updates that are orthogonalised, the spectral condition: Yang et al., "A spectral condition for feature
// learning", arXiv 2310.17813. All sides of a family's models grow alike, by more heads of one dimension; the rules say
// nothing of depth. Not for: whether they hold (coordinates.hpp).
#pragma once

#include <string>

#include "model/config.hpp"
#include "model/parameters.hpp"
#include "trainer/settings.hpp"

namespace nibble {

/// How an update's size depends on its gradient's.
enum class UpdateRule {
  adaptive,      ///< elements of about the learning rate: Adam and those that keep its size
  proportional,  ///< to the gradient: SGD
  moonlight,     ///< orthogonal, by the root of the longer side
  orthogonal     ///< with the spectral scale, or the original one, which differs by what no width changes
};

/// Of one of optimizer_names, with optimizer.muon.scale. Shampoo's length must be Adam's, which resolve.hpp sees to.
UpdateRule update_rule(const std::string& optimizer, const std::string& scale);

struct Mup {
  double ratio = 1;  ///< the model's width over that at which its settings were tuned; 1: as they are

  /// What model.init_std is multiplied with.
  double deviation(ParameterKind kind) const;
  /// What a learning rate is multiplied with; the decay by the inverse, so that weights shrink alike at every width.
  double learning_rate(ParameterKind kind, UpdateRule rule) const;
};

/// Of settings with model.mup_base_width; else all factors are 1.
Mup mup_of(const Settings& settings, const ModelConfig& config);

}  // namespace nibble
