#include "optim/parameter_groups.hpp"

#include <fmt/format.h>

#include <utility>

#include "optim/name_patterns.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

std::string place_of(size_t rule) { return fmt::format("optimizer.groups[{}].match", rule); }

const char* kind_of(const ParameterInfo& info) {
  return info.kind == ParameterKind::embedding ? "an embedding, whose rows are looked up"
         : info.kind == ParameterKind::head    ? "a head, whose rows are classes"
                                               : "a vector, which has one singular value";
}

[[noreturn]] void refuse_kind(const ParameterInfo& info, size_t rule, const std::string& pattern) {
  throw Error({.kind = ErrorKind::configuration,
               .what = fmt::format("{} is {}: its optimizer is one of projections", info.name, kind_of(info)),
               .where = place_of(rule),
               .seen = pattern,
               .allowed = "patterns that match projections alone: *_proj.weight, *self_attn*, *mlp*",
               .next = "leave the name out of the group: what is no projection has adamw beside muon and its kin"});
}

}  // namespace

std::vector<int> assign_groups(const std::vector<ParameterInfo>& parameters, std::span<const GroupRule> rules) {
  std::vector<int> group(parameters.size(), -1);
  for (size_t rule = 0; rule < rules.size(); ++rule) {
    if (rules[rule].match.empty())
      throw Error({.kind = ErrorKind::configuration,
                   .what = "a group without parameters",
                   .where = place_of(rule),
                   .seen = "no pattern",
                   .allowed = "match: one pattern of names, or a list of them"});
    for (const std::string& pattern : rules[rule].match)
      for (const size_t i : matching(pattern, parameters, place_of(rule))) {
        if (group[i] >= 0 && group[i] != static_cast<int>(rule))
          throw Error({.kind = ErrorKind::configuration,
                       .what = fmt::format("two groups have {}", parameters[i].name),
                       .where = fmt::format("{}, {}", place_of(static_cast<size_t>(group[i])), place_of(rule)),
                       .seen = pattern,
                       .allowed = "each parameter in one group",
                       .next = "make one of the patterns narrower"});
        if (rules[rule].takes_matrices && parameters[i].kind != ParameterKind::projection)
          refuse_kind(parameters[i], rule, pattern);
        group[i] = static_cast<int>(rule);
      }
  }
  return group;
}

GroupedOptimizer::GroupedOptimizer(std::vector<Group> groups) : groups_(std::move(groups)) {}

void GroupedOptimizer::step(Stream& stream, const StepContext& context) {
  for (const Group& group : groups_) {
    StepContext own = context;
    own.learning_rate *= group.learning_rate_factor;
    group.optimizer->step(stream, own);
  }
}

void GroupedOptimizer::state(StateList& list) {
  for (const Group& group : groups_) group.optimizer->state(list);
}

}  // namespace nibble
