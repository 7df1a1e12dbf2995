// The columns of a run's metrics: each once, with the tag under which TensorBoard shows it.
//
// Not for: the values (training_run.cpp) and not for the files (metrics.hpp, tensorboard.hpp).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace nibble {

struct MetricColumn {
  const char* name;
  const char* tag;  ///< "group/curve"; empty for a column that is no curve
};

/// In the order of metrics.csv, "step" first.
const std::vector<MetricColumn>& metric_columns();
std::vector<std::string> metric_column_names();

// Of each group of parameters (update_groups), behind all others.
std::string update_rms_column(std::string_view group);
std::string orthogonality_error_column(std::string_view group);

/// The tag of a column by its name; "other/NAME" for one that is not in the table, such as an older Nibble's.
std::string metric_tag(std::string_view name);

}  // namespace nibble
