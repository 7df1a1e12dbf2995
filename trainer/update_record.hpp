// The length and the orthogonality of each optimizer's updates, every so many steps, for all ranks together.
//
// Sums are of blocks, in their order, so that no number of ranks or threads changes a bit.
// Not for: what is measured (optim/update_meter.hpp), the columns of the metrics (metric_columns.hpp).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "comm/communication_thread.hpp"
#include "optim/update_meter.hpp"
#include "trainer/make_optimizer.hpp"
#include "trainer/shard_plan.hpp"

namespace nibble {

/// Of the updates of one group of parameters in one step.
struct UpdateFigures {
  std::string group;
  double rms = 0;                             ///< over all elements of the group; NaN where the learning rate is 0
  std::optional<double> orthogonality_error;  ///< the largest of its matrices
};

class UpdateRecord {
 public:
  /// `every`: steps between records; 0: none. `layout` and `plan` must outlive the object.
  UpdateRecord(const ParameterLayout& layout, const ShardPlan& plan, std::vector<UpdateGroup> groups, int64_t every);

  /// What the optimizers are to tell; null where there are no records.
  UpdateMeter* meter() { return every_ > 0 ? &meter_ : nullptr; }

  /// Before the update of step `step`, counted from 0: measures it if it is one of those that are recorded.
  void start(int64_t step);
  /// After it. All ranks call it. Empty where the step is not recorded.
  std::vector<UpdateFigures> finish(CommunicationThread& thread, double learning_rate);

 private:
  /// This rank's part becomes that of all.
  void gather(CommunicationThread& thread);

  const ParameterLayout& layout_;
  const ShardPlan& plan_;
  std::vector<UpdateGroup> groups_;
  int64_t every_;
  UpdateMeter meter_;
};

}  // namespace nibble
