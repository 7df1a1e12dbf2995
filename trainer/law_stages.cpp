#include "trainer/law_stages.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "tensor/error.hpp"
#include "tensor/random.hpp"

namespace nibble {
namespace {

constexpr uint64_t resample_seed = 1, start_seed = 2;

/// Points that are not at one place.
size_t different(std::span<const LawPoint> points, std::span<const int> weights = {}) {
  using Formats = std::tuple<std::array<double, 2>, std::array<double, 2>, double, double, double>;
  std::set<std::tuple<double, double, std::optional<size_t>, Formats>> places;
  for (size_t i = 0; i < points.size(); ++i) {
    const LawPoint& p = points[i];
    if (weights.empty() || weights[i] > 0)
      places.emplace(p.log_parameters, p.log_tokens, p.parameter_efficiency,
                     Formats(p.bits, p.log_quarter_error, p.exponent_bits, p.mantissa_bits, p.log_block));
  }
  return places.size();
}

LawMinimum least(const LawProblem& problem, const std::vector<double>& best, uint32_t number) {
  LawMinimum minimum = minimize_from(problem, best);
  for (int start = 0; start < LawStages::starts_of_resample; ++start) {
    const int stream = static_cast<int>(number) * LawStages::starts_of_resample + start;
    LawMinimum other = minimize_from(
        problem,
        law_start(*problem.law, problem.points, start_uniforms(start_seed, stream, best.size()), problem.fixed));
    if (other.cost < minimum.cost) minimum = std::move(other);
  }
  return minimum;
}

}  // namespace

LawStages::LawStages(const ScalingLaw& law, const LawRuns& runs, const std::vector<std::optional<double>>& fixed,
                     double huber)
    : law_(law), runs_(runs), fixed_(fixed), huber_(huber) {
  const bool apart = law.efficiency == FreeEfficiency::of_parameters_and_data;
  fixed_.resize(law.constants.size() + runs.efficiencies.size(), apart ? std::optional<double>(0) : std::nullopt);
  stages_.emplace_back();
  for (size_t group = 0; group < runs.groups.size(); ++group) {
    if (group > 0 && apart) stages_.push_back({.groups = {group}});
    else stages_.front().groups.push_back(group);
  }
  for (Stage& stage : stages_)
    for (const size_t group : stage.groups)
      for (const size_t member : runs.groups[group].members) stage.points.push_back(runs.law_points[member]);
}

void LawStages::require_enough() const {
  const LawProblem problem = this->problem(0, {});
  const size_t free = problem.free_values(), places = different(problem.points);
  if (places < free)
    throw Error({.kind = ErrorKind::configuration,
                 .what = fmt::format("fewer runs than the law '{}' has parameters", law_.name),
                 .where = "RUNS",
                 .seen = fmt::format("{} runs to fit, {} different in size, tokens or format; {} held out, {} left out",
                                     problem.points.size(), places, runs_.held_out.size(), runs_.left_out.size()),
                 .allowed = fmt::format("at least {}, for as many fitted values", free),
                 .next = "train more sizes and lengths, or fix what is known: --irreducible, --fix NAME=VALUE"});
  if (!law_.log_efficiency && !law_.log_excess) return;
  size_t own = 0;
  const size_t first_own = law_.constants.size() - law_.own_constants();
  for (size_t i = first_own; i < law_.constants.size(); ++i) own += !problem.fixed[i];
  std::vector<LawPoint> formats;
  for (LawPoint point : problem.points) {
    point.log_parameters = point.log_tokens = 0;
    formats.push_back(point);
  }
  const size_t known = different(formats) - 1;  // one is bf16
  if (known < own)
    throw Error({.kind = ErrorKind::configuration,
                 .what = fmt::format("fewer formats than the law '{}' has constants of formats", law_.name),
                 .where = "RUNS",
                 .seen = fmt::format("{} different formats beside bf16", known),
                 .allowed = fmt::format("at least {}", own),
                 .next = "train with more formats, or fix what is known with --fix NAME=VALUE"});
}

size_t LawStages::efficiency_place(size_t number) const {
  return law_.constants.size() + *runs_.groups[stages_[number].groups.front()].efficiency;
}

LawProblem LawStages::problem(size_t number, const std::vector<double>& values) const {
  LawProblem problem{.law = &law_, .points = stages_[number].points, .fixed = fixed_, .huber = huber_};
  if (number == 0) return problem;
  problem.fixed.assign(values.begin(), values.end());
  problem.fixed[efficiency_place(number)].reset();
  return problem;
}

void LawStages::accept(size_t number, const std::vector<double>& found, std::vector<double>& values) const {
  if (number == 0) values = found;
  else values[efficiency_place(number)] = found[efficiency_place(number)];
}

std::vector<std::vector<int>> LawStages::draw(uint32_t number) const {
  const RandomStream random(resample_seed, Purpose::sampling, number, 1);  // starts have 0
  uint64_t drawn = 0;
  std::vector<std::vector<int>> weights;
  for (const Stage& stage : stages_) {
    std::vector<int>& of_stage = weights.emplace_back();
    for (const size_t group : stage.groups) {
      const size_t first = of_stage.size(), members = runs_.groups[group].members.size();
      of_stage.resize(first + members);
      for (size_t i = 0; i < members; ++i) ++of_stage[first + ((uint64_t{random.word(drawn++)} * members) >> 32)];
    }
  }
  return weights;
}

std::optional<std::vector<double>> LawStages::resample(uint32_t number, const std::vector<double>& best) const {
  const std::vector<std::vector<int>> weights = draw(number);
  if (different(stages_[0].points, weights[0]) < problem(0, best).free_values()) return std::nullopt;
  std::vector<double> values = best;
  for (size_t stage = 0; stage < stages_.size(); ++stage) {
    LawProblem resampled = problem(stage, values);
    resampled.weights = weights[stage];
    accept(stage, least(resampled, best, number).values, values);
  }
  return values;
}

}  // namespace nibble
