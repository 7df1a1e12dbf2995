// What the runs of a sweep take: tokens, operations, time and memory, before any of them begins.
//
// Time is measured in a short burst of one micro-batch and an update for each shape and recipe, as far as a few seconds
// reach; for the others it follows from their operations. As in `nibble plan`, validation and checkpoints are not in
// it. Not for: what a step of many ranks takes (run_plan.hpp).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "trainer/sweep_plan.hpp"

namespace nibble {

struct SweepRunCost {
  int64_t parameters = 0;
  int64_t steps = 0;      ///< of its own: a branch's without its trunk's
  double tokens = 0;      ///< of these
  double operations = 0;  ///< FLOP
  double seconds = 0;     ///< on one process of this machine
  bool measured = false;  ///< a burst of this shape and recipe, or one of another, scaled
  double memory = 0;      ///< bytes, foreseen
};

struct SweepCost {
  std::vector<SweepRunCost> runs;  ///< by run, each as if it ran to its end
  /// Of the sweep: under halving with as many runs on each rung as go on.
  double tokens = 0, operations = 0, seconds = 0;
};

/// Throws as foresee_memory and measure_compute_alone do.
SweepCost cost_of(const SweepPlan& plan);

nlohmann::ordered_json to_json(const SweepPlan& plan, const SweepCost& cost);
std::string cost_text(const SweepPlan& plan, const SweepCost& cost);

}  // namespace nibble
