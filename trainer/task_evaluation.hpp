// What a model answers to multiple-choice questions: the choice that it finds most probable.
//
// Not for: reading the questions (data/choice_tasks.hpp).
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "data/choice_tasks.hpp"
#include "model/llama.hpp"

namespace nibble {

/// A share of right answers over `questions`.
struct Accuracy {
  int64_t right = 0, questions = 0;

  double value() const { return static_cast<double>(right) / static_cast<double>(questions); }
  /// Its standard error: sqrt(p (1 - p) / (n - 1)), that of a mean over the questions; 0 for a single one.
  double error() const;
};

struct TaskScores {
  /// By question and choice: the sum of the log-probabilities (nats) of the choice's ids.
  std::vector<std::vector<double>> log_probabilities;
  Accuracy by_sum;         ///< acc: the largest sum is taken for the answer
  Accuracy by_normalized;  ///< acc_norm: the largest sum / Choice::length
  int64_t shortened = 0;  ///< choices whose context lost its beginning, since both were longer than the model's context
};

struct TaskOptions {
  int64_t sequences = 4;  ///< of the longest length in a forward pass; as many tokens of shorter ones
  /// Told the choices done and their number.
  std::function<void(int64_t done, int64_t of)> progress{};
};

/// Of equal scores the first choice is taken. Recipes whose scales span a micro-batch see other choices and padding
/// beside each choice; those of fp32 and bf16 do not.
TaskScores score_task(Stream& stream, const ModelConfig& config, const Precision& precision,
                      const ParameterSet& weights, const ChoiceTask& task, const TaskOptions& options);

}  // namespace nibble
