#include "quant/precision.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "tensor/error.hpp"

namespace nibble {

const char* name(Projection projection) {
  static constexpr const char* names[] = {"qkv", "output", "gate_up", "down"};
  return names[static_cast<size_t>(projection)];
}

Precision::Precision(Recipe recipe, std::vector<PrecisionRule> rules)
    : recipe_(std::move(recipe)), rules_(std::move(rules)) {
  for (const PrecisionRule& rule : rules_)
    if (rule.recipe.operands != recipe_.operands)
      throw Error({.kind = ErrorKind::configuration,
                   .what = "a rule's recipe has other operands than the model",
                   .where = "precision",
                   .seen = fmt::format("{} among {}", rule.recipe.name, recipe_.name),
                   .next = "fp32 stands alone; take bf16 for layers that are not quantized"});
}

bool Precision::learns() const {
  return recipe_.learns() ||
         std::ranges::any_of(rules_, [](const PrecisionRule& rule) { return rule.recipe.learns(); });
}

Precision Precision::at(int64_t step) const {
  std::vector<PrecisionRule> rules;
  for (const PrecisionRule& rule : rules_) {
    if (step < rule.first_step || step >= rule.end_step) continue;
    PrecisionRule always = rule;
    always.first_step = 0;
    always.end_step = std::numeric_limits<int64_t>::max();
    rules.push_back(always);
  }
  return {recipe_, rules};
}

std::vector<Precision::Phase> Precision::phases(int64_t layer, Projection projection) const {
  std::set<int64_t> changes = {0};
  std::vector<const PrecisionRule*> fitting;
  for (const PrecisionRule& rule : rules_) {
    const bool fits = layer >= rule.first_layer && layer < rule.end_layer &&
                      (rule.of.empty() || std::ranges::find(rule.of, projection) != rule.of.end());
    if (!fits || rule.first_step >= rule.end_step) continue;
    fitting.push_back(&rule);
    changes.insert(rule.first_step);
    if (rule.end_step < std::numeric_limits<int64_t>::max()) changes.insert(rule.end_step);
  }
  std::vector<Phase> phases;
  for (const int64_t step : changes) {
    const Recipe* recipe = &recipe_;
    for (const PrecisionRule* rule : fitting)
      if (step >= rule->first_step && step < rule->end_step) recipe = &rule->recipe;
    if (phases.empty() || phases.back().recipe.name != recipe->name) phases.push_back({step, *recipe});
  }
  return phases;
}

}  // namespace nibble
