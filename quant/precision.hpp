// Which recipe each projection of each layer follows, and when.
//
// Not for: what a recipe is (recipe.hpp), the settings that say it (trainer/).
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "quant/recipe.hpp"

namespace nibble {

/// The linear layers of a block, by physical matrix.
enum class Projection { qkv, output, gate_up, down };
inline constexpr std::array<Projection, 4> projections = {Projection::qkv, Projection::output, Projection::gate_up,
                                                          Projection::down};
const char* name(Projection projection);

/// Replaces the recipe of some layers, some projections, some steps.
struct PrecisionRule {
  int64_t first_layer = 0, end_layer = std::numeric_limits<int64_t>::max();
  std::vector<Projection> of{};  ///< empty: all
  int64_t first_step = 0, end_step = std::numeric_limits<int64_t>::max();
  Recipe recipe{};
};

class Precision {
 public:
  /// One recipe everywhere, and rules of which the last one that fits counts. Throws Error{configuration} where a
  /// rule's recipe has other operands (fp32 among bf16).
  Precision(Recipe recipe, std::vector<PrecisionRule> rules = {});

  /// Of the model's working weights and saved activations.
  DType operands() const { return recipe_.operands; }
  const Recipe& recipe() const { return recipe_; }
  const std::vector<PrecisionRule>& rules() const { return rules_; }

  /// Whether any layer has steps to learn, in any phase.
  bool learns() const;

  /// What holds at that step, for ever.
  Precision at(int64_t step) const;

  /// A recipe and the step with which it begins.
  struct Phase {
    int64_t first_step = 0;
    Recipe recipe{};
  };
  /// What a projection follows, in order of steps, the first from step 0 on.
  std::vector<Phase> phases(int64_t layer, Projection projection) const;

 private:
  Recipe recipe_;
  std::vector<PrecisionRule> rules_;
};

}  // namespace nibble
