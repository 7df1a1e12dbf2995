// The minimisations of a law's fit, one after the other: the constants, then, where the law has them apart, each
// recipe's efficiency with the constants kept.
//
// Not for what is reported of them (law_fit.hpp).
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "trainer/law_groups.hpp"
#include "trainer/law_minimum.hpp"

namespace nibble {

class LawStages {
 public:
  /// `fixed`: of the law's constants, as they are fitted. Both references must outlive this.
  LawStages(const ScalingLaw& law, const LawRuns& runs, const std::vector<std::optional<double>>& fixed, double huber);

  /// Throws Error{configuration}: fewer different runs than fitted values, fewer different formats than the constants
  /// that only formats tell.
  void require_enough() const;

  size_t count() const { return stages_.size(); }
  /// Places of the runs' groups of stage `number`.
  const std::vector<size_t>& groups(size_t number) const { return stages_[number].groups; }
  /// Stage `number`, given the values that those before it found.
  LawProblem problem(size_t number, const std::vector<double>& values) const;
  /// Takes over what a stage found.
  void accept(size_t number, const std::vector<double>& found, std::vector<double>& values) const;

  /// All stages on a resample: of each group as many runs as it has, drawn with repetition. From `best` and from
  /// `starts_of_resample` random starts. Nothing where too few different runs were drawn. A function of
  /// `number` alone.
  std::optional<std::vector<double>> resample(uint32_t number, const std::vector<double>& best) const;
  static constexpr int starts_of_resample = 3;

 private:
  struct Stage {
    std::vector<size_t> groups;
    std::vector<LawPoint> points{};
  };

  /// Where the value of a later stage stands.
  size_t efficiency_place(size_t number) const;
  std::vector<std::vector<int>> draw(uint32_t number) const;

  const ScalingLaw& law_;
  const LawRuns& runs_;
  std::vector<std::optional<double>> fixed_;  ///< of the first stage
  double huber_;
  std::vector<Stage> stages_;
};

}  // namespace nibble
