#include "trainer/law_fit.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "tensor/error.hpp"
#include "trainer/law_stages.hpp"
#include "trainer/quantile.hpp"

namespace nibble {
namespace {

constexpr uint64_t seed = 1;

std::vector<std::optional<double>> fixed_values(const ScalingLaw& law, const std::map<std::string, double>& fixed) {
  std::vector<std::optional<double>> values(law.constants.size());
  std::vector<std::string> names;
  for (const LawConstant& constant : law.constants) names.emplace_back(constant.name);
  for (const auto& [name, value] : fixed) {
    const auto found = std::ranges::find(names, name);
    const auto refuse = [&](const std::string& what, const std::string& allowed) {
      throw Error({.kind = ErrorKind::configuration,
                   .what = what,
                   .where = "--fix",
                   .seen = fmt::format("{}={}", name, value),
                   .allowed = allowed});
    };
    if (found == names.end())
      refuse(fmt::format("the law '{}' has no such constant", law.name), fmt::format("{}", fmt::join(names, ", ")));
    const auto place = static_cast<size_t>(found - names.begin());
    if (value <= 0) refuse("a constant that is not positive", "a number above zero");
    values[place] = std::log(value);
  }
  return values;
}

ResidualSize size_of(const std::vector<double>& residuals) {
  ResidualSize size{.runs = residuals.size()};
  for (const double residual : residuals) {
    size.rms += residual * residual;
    size.mean += residual / static_cast<double>(residuals.size());
    size.largest = std::max(size.largest, std::abs(residual));
  }
  size.rms = std::sqrt(size.rms / static_cast<double>(residuals.size()));
  return size;
}

Interval interval_of(const std::vector<double>& values) { return {quantile(values, 0.025), quantile(values, 0.975)}; }

void add_noise(const std::vector<FitPoint>& runs, LawFit& fit) {
  std::map<std::tuple<double, double, std::string, std::string>, std::vector<double>> cells;
  for (const FitPoint& run : runs)
    cells[{run.parameters, run.tokens, run.forward, run.backward}].push_back(std::log(run.loss));
  double squares = 0;
  for (const auto& [cell, losses] : cells) {
    double mean = 0;
    for (const double loss : losses) mean += loss / static_cast<double>(losses.size());
    for (const double loss : losses) squares += (loss - mean) * (loss - mean);
    fit.noise_degrees += losses.size() - 1;
  }
  if (fit.noise_degrees > 0) fit.noise = std::sqrt(squares / static_cast<double>(fit.noise_degrees));
}

void add_warnings(const LawRuns& runs, const LawProblem& problem, const std::vector<double>& values, LawFit& fit) {
  std::vector<double> ratios, sizes, tokens;
  for (const size_t member : runs.groups.front().members) {
    const FitPoint& run = runs.points[member];
    ratios.push_back(run.tokens / run.parameters);
    sizes.push_back(run.parameters);
    tokens.push_back(run.tokens);
  }
  const auto alike = [](const std::vector<double>& all) {
    return std::ranges::max(all) < 1.05 * std::ranges::min(all);
  };
  if (alike(sizes))
    fit.warnings.emplace_back("all runs without quantization have one size: A, alpha and E cannot be told apart");
  if (alike(tokens))
    fit.warnings.emplace_back("all runs without quantization saw as many tokens: B, beta and E cannot be told apart");
  if (alike(ratios) && !alike(sizes))
    fit.warnings.push_back(fmt::format(
        "all runs without quantization have one ratio of tokens to parameters ({:.4g}): the terms of N and D "
        "are confounded and E is not identified; only their sum at this ratio means something",
        ratios.front()));
  double least = HUGE_VAL;
  for (const FittedPoint& run : fit.points) least = std::min(least, run.point.loss);
  if (fit.constants[law_e].value >= least)
    fit.warnings.push_back(fmt::format("{} is {:.4g}, and a run's loss is {:.4g}: no law of this form goes below it",
                                       fit.constants[law_e].name, fit.constants[law_e].value, least));
  std::string names;
  for (const size_t place : undetermined(problem, values)) {
    if (!names.empty()) names += ", ";
    names += place < fit.constants.size() ? fit.constants[place].name
                                          : "eff " + runs.efficiencies[place - fit.constants.size()].recipe;
  }
  if (!names.empty()) fit.warnings.push_back("the runs do not determine " + names);
  if (fit.reached * 20 < fit.starts)
    fit.warnings.push_back(
        fmt::format("only {} of {} starts came to the least cost: try more --starts, or a law with fewer constants",
                    fit.reached, fit.starts));
}

/// That of all runs' data; none where one does not know it, or knows another.
std::optional<double> common_entropy(const std::vector<FitPoint>& runs) {
  const std::optional<double> first = runs.front().entropy;
  return std::ranges::all_of(runs, [&](const FitPoint& run) { return run.entropy == first; }) ? first : std::nullopt;
}

/// Fits, then reads off; steps in the order in which they are called.
class Study {
 public:
  Study(Stream& stream, const ScalingLaw& law, const LawRuns& runs, const LawFitOptions& options,
        const std::function<void(int64_t, int64_t)>& progress)
      : stream_(stream),
        law_(law),
        runs_(runs),
        options_(options),
        progress_(progress),
        fixed_(fixed_values(law, options.fixed)),
        stages_(law, runs, fixed_, options.huber.value_or(law.huber)) {
    stages_.require_enough();
    fit_.law = &law;
    fit_.huber = options.huber.value_or(law.huber);
    fit_.left_out = runs.left_out;
  }

  LawFit study() {
    minimize_stages();
    resample();
    read_constants();
    predict();
    read_efficiencies();
    add_noise(runs_.points, fit_);
    add_warnings(runs_, stages_.problem(0, {}), values_, fit_);
    return std::move(fit_);
  }

 private:
  void tell(int64_t more) {
    const auto stages = static_cast<int64_t>(stages_.count());
    done_ += more;
    if (progress_)
      progress_(done_, stages * (options_.starts + int64_t{options_.bootstrap} * (1 + LawStages::starts_of_resample)));
  }

  void minimize_stages() {
    for (size_t stage = 0; stage < stages_.count(); ++stage) {
      const LawMinimum& minimum = minima_.emplace_back(
          minimize(stream_, stages_.problem(stage, values_), options_.starts, seed, [&](int64_t more) { tell(more); }));
      if (!std::isfinite(minimum.cost))
        throw Error({.kind = ErrorKind::numerics,
                     .what = fmt::format("no start of the fit of '{}' came to an end", law_.name),
                     .where = "RUNS",
                     .next = "look for losses, sizes or tokens that are far off"});
      stages_.accept(stage, minimum.values, values_);
    }
    fit_.cost = minima_[0].cost;
    fit_.starts = minima_[0].starts;
    fit_.reached = minima_[0].reached;
  }

  void resample() {
    resamples_.resize(static_cast<size_t>(options_.bootstrap));
    const int64_t turn = 4 * stream_.threads(), stages = static_cast<int64_t>(stages_.count());
    for (int64_t first = 0; first < options_.bootstrap; first += turn) {
      const int64_t count = std::min<int64_t>(turn, options_.bootstrap - first);
      parallel_tasks(stream_, count, [&](int64_t task, int64_t) {
        resamples_[static_cast<size_t>(first + task)] = stages_.resample(static_cast<uint32_t>(first + task), values_);
      });
      tell(count * stages * (1 + LawStages::starts_of_resample));
    }
    std::erase(resamples_, std::nullopt);
    fit_.resamples = static_cast<int>(resamples_.size());
    if (fit_.resamples < options_.bootstrap)
      fit_.warnings.push_back(fmt::format("{} of {} resamples had fewer different runs than the law has parameters: {}",
                                          options_.bootstrap - fit_.resamples, options_.bootstrap,
                                          fit_.resamples == 0 ? "no intervals" : "intervals are too narrow"));
  }

  std::optional<Interval> interval(size_t place) const {
    if (resamples_.empty() || (place < fixed_.size() && fixed_[place])) return std::nullopt;
    std::vector<double> found;
    for (const auto& resample : resamples_) found.push_back(std::exp((*resample)[place]));
    return interval_of(found);
  }

  void read_constants() {
    for (size_t i = 0; i < law_.constants.size(); ++i)
      fit_.constants.push_back({law_.constants[i].name, std::exp(values_[i]), fixed_[i].has_value(), interval(i)});
  }

  double predict(size_t member, bool held_out) {
    const double log_loss = law_log_loss(law_, runs_.law_points[member], values_);
    const double residual = log_loss - runs_.law_points[member].log_loss;
    fit_.points.push_back({runs_.points[member], held_out, std::exp(log_loss), residual});
    return residual;
  }

  void predict() {
    std::vector<double> of_constants, held_out;
    for (size_t group = 0; group < runs_.groups.size(); ++group) {
      std::vector<double>& residuals = group_residuals_.emplace_back();
      for (const size_t member : runs_.groups[group].members) residuals.push_back(predict(member, false));
      if (std::ranges::find(stages_.groups(0), group) != stages_.groups(0).end())
        of_constants.insert(of_constants.end(), residuals.begin(), residuals.end());
    }
    for (const size_t member : runs_.held_out) held_out.push_back(predict(member, true));
    fit_.residuals = size_of(of_constants);
    if (!held_out.empty()) fit_.held_out = size_of(held_out);
  }

  void read_efficiencies() {
    for (size_t group = 1; group < runs_.groups.size(); ++group) {
      if (!runs_.groups[group].efficiency) continue;
      const size_t k = *runs_.groups[group].efficiency, place = law_.constants.size() + k;
      FittedEfficiency efficiency{.of = runs_.efficiencies[k],
                                  .value = std::exp(values_[place]),
                                  .interval = interval(place),
                                  .residuals = size_of(group_residuals_[group])};
      if (stages_.count() > 1) {
        efficiency.starts = minima_[group].starts;
        efficiency.reached = minima_[group].reached;
      }
      const FormatFacts& formats = runs_.formats[runs_.groups[group].members.front()];
      const CapacityConstants& llama = published_capacity().front();
      if (!efficiency.of.of_data && formats.errors[0] && formats.errors[1])
        efficiency.capacity = capacity(*formats.errors[0], llama) * capacity(*formats.errors[1], llama);
      fit_.efficiencies.push_back(efficiency);
    }
  }

  Stream& stream_;
  const ScalingLaw& law_;
  const LawRuns& runs_;
  const LawFitOptions& options_;
  const std::function<void(int64_t, int64_t)>& progress_;
  std::vector<std::optional<double>> fixed_;
  LawStages stages_;
  LawFit fit_;
  int64_t done_ = 0;
  std::vector<double> values_;
  std::vector<LawMinimum> minima_;  ///< of the stages
  std::vector<std::optional<std::vector<double>>> resamples_;
  std::vector<std::vector<double>> group_residuals_;
};

}  // namespace

LawFit fit_law(Stream& stream, const FitPoints& points, const LawFitOptions& options,
               const std::function<void(int64_t, int64_t)>& progress) {
  const ScalingLaw& law = find_law(options.law);
  constexpr int64_t error_parts = 16;
  const std::vector<FormatFacts> formats = formats_of(stream, law, points.points, error_parts);
  const LawRuns runs = divide_runs(law, points, formats, options.hold_out_above);
  LawFitOptions known = options;
  const std::optional<double> entropy = common_entropy(runs.points);
  const bool takes_entropy = entropy && known.fixed.try_emplace(law.constants[law_e].name, *entropy).second;
  LawFit fit = Study(stream, law, runs, known, progress).study();
  if (takes_entropy) fit.entropy = entropy;
  if (!entropy && std::ranges::any_of(runs.points, [](const FitPoint& run) { return run.entropy.has_value(); }))
    fit.warnings.emplace_back("the runs' data do not have one entropy: E is fitted as if they had");
  if (!points.other_columns.empty())
    fit.warnings.push_back(fmt::format("columns that nothing reads: {}", fmt::join(points.other_columns, ", ")));
  return fit;
}

}  // namespace nibble
