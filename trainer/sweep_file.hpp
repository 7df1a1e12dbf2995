// A sweep as its YAML file says it: the settings that all runs share, the axes along which they differ, and how points
// are chosen from these.
//
//   directory: runs/sweep
//   base: my-run.yaml                     # or the settings themselves
//   axes:
//     optimizer.learning_rate: {from: 1e-3, to: 4e-3, count: 3, scale: log}
//     size:                               # keys that move together, under a name of their own
//       small: {model.width: 64, model.layers: 1}
//       large: {model.width: 128, model.layers: 2}
//   twin: bf16
//
// Not for the runs that follow from it (sweep_plan.hpp).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "trainer/settings_node.hpp"

namespace nibble {

/// Tokens for each parameter that is neither in the embedding nor in the head: an axis that is no setting.
inline constexpr const char* tokens_per_parameter = "tokens_per_parameter";

struct SweepAssignment {
  std::string key;  ///< of a setting, or tokens_per_parameter
  YAML::Node value;
  std::string where;
};

/// A place on an axis: what it sets, and its part of a run's name.
struct SweepValue {
  std::string label;
  std::vector<SweepAssignment> assignments;
};

/// Numbers between two ends, of which random points take any.
struct SweepRange {
  double from = 0, to = 0;
  bool logarithmic = false, whole = false;
};

struct SweepAxis {
  std::string name;  ///< the key, or what the group is called
  std::vector<SweepValue> values{};
  std::optional<SweepRange> range{};  ///< then there are no values
  std::string where{};
};

enum class SweepMethod { grid, list, random, halving };

struct SweepFile {
  std::string name;       ///< of the file
  std::string directory;  ///< of the sweep
  GivenSettings base;
  SweepMethod method = SweepMethod::grid;
  std::vector<SweepAxis> axes{};
  std::vector<std::vector<SweepValue>> list{};  ///< points written out
  int64_t count = 0;                            ///< random points; 0: the grid
  uint64_t seed = 1;                            ///< of their draw
  std::vector<StepsOrShare> rungs{};            ///< halving: where runs are compared
  double keep = 0.5;                            ///< the part of them that goes on
  bool trunk = false;
  bool twins = false;
};

/// Throws Error{configuration} with the place in the file: what settings_node.hpp throws, an axis over an unknown key,
/// a word that a sweep does not have, a method without what it needs.
SweepFile read_sweep(const std::string& file);

/// The number at a part, 0 to 1, of the range's length, in three digits.
std::string number_in_range(const SweepRange& range, double part);

/// One value of a setting as an axis has it. Throws Error{configuration} for an unknown key.
SweepValue sweep_value(const std::string& key, const YAML::Node& value, const std::string& where, size_t position);

}  // namespace nibble
