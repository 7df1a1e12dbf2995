// Several optimizers for one model: who updates which parameter, and all of them as one optimizer.
//
// Not for: which optimizers there are and what they are told (trainer/make_optimizer.hpp).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "optim/optimizer.hpp"

namespace nibble {

/// Parameters that are named in one place.
struct GroupRule {
  std::vector<std::string> match;  ///< patterns of names
  bool takes_matrices = false;     ///< its optimizer treats a parameter as a linear map
};

/// By parameter: the number of the rule that names it, -1 where none does.
///
/// Throws Error{configuration} for a rule without patterns, a pattern that matches nothing, a parameter that two rules
/// name, and for an embedding, a head or a vector in a group that takes matrices: rows of an embedding are looked up
/// and not multiplied, those of a head are its classes, so that equal singular values mean nothing for them (Jordan et
/// al., "Muon", 2024; Liu et al., arXiv 2502.16982), and a vector has one singular value.
std::vector<int> assign_groups(const std::vector<ParameterInfo>& parameters, std::span<const GroupRule> rules);

class GroupedOptimizer final : public Optimizer {
 public:
  struct Group {
    std::unique_ptr<Optimizer> optimizer;
    double learning_rate_factor = 1;  ///< what the step's learning rate is multiplied with
  };

  explicit GroupedOptimizer(std::vector<Group> groups);

  void step(Stream& stream, const StepContext& context) override;
  void state(StateList& list) override;

 private:
  std::vector<Group> groups_;
};

}  // namespace nibble
