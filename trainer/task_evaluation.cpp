#include "trainer/task_evaluation.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "trainer/memory.hpp"

namespace nibble {
namespace {

constexpr int64_t shortest_length = 16;  // shorter sequences would not be faster

/// A context with one of its choices.
struct Row {
  size_t question, choice;
  std::vector<int32_t> ids;
  int64_t scored;  ///< ids at the end

  int64_t inputs() const { return std::ssize(ids) - 1; }
};

std::vector<Row> rows_of(const ChoiceTask& task, int64_t context, int64_t& shortened) {
  std::vector<Row> rows;
  for (size_t q = 0; q < task.questions.size(); ++q) {
    const ChoiceQuestion& question = task.questions[q];
    for (size_t c = 0; c < question.choices.size(); ++c) {
      Row row{q, c, question.contexts[c], std::ssize(question.choices[c].ids)};
      row.ids.insert(row.ids.end(), question.choices[c].ids.begin(), question.choices[c].ids.end());
      if (row.inputs() > context) {
        row.ids.erase(row.ids.begin(), row.ids.end() - (context + 1));
        row.scored = std::min(row.scored, context);
        ++shortened;
      }
      rows.push_back(std::move(row));
    }
  }
  std::ranges::stable_sort(rows, std::greater(), &Row::inputs);
  return rows;
}

/// Rows of one forward pass, each from the beginning of a sequence.
class RowBatch {
 public:
  RowBatch(int64_t sequences, int64_t length)
      : length_(static_cast<size_t>(length)),
        inputs_(static_cast<size_t>(sequences) * length_, 0),
        targets_(inputs_.size(), -1),
        losses_(inputs_.size()) {}

  void score(Llama& model, const ParameterSet& weights, std::span<const Row> rows, TaskScores& scores) {
    std::ranges::fill(inputs_, 0);
    std::ranges::fill(targets_, -1);
    for (size_t r = 0; r < rows.size(); ++r) {
      const std::vector<int32_t>& ids = rows[r].ids;
      std::copy(ids.begin(), ids.end() - 1, inputs_.begin() + static_cast<std::ptrdiff_t>(r * length_));
      std::copy(ids.end() - rows[r].scored, ids.end(), targets_.begin() + first_scored(rows[r], r));
    }
    model.losses(weights, {inputs_, targets_, {}}, losses_);
    for (size_t r = 0; r < rows.size(); ++r) {
      const auto first = losses_.begin() + first_scored(rows[r], r);
      scores.log_probabilities[rows[r].question][rows[r].choice] = -std::accumulate(first, first + rows[r].scored, 0.0);
    }
  }

 private:
  std::ptrdiff_t first_scored(const Row& row, size_t r) const {
    return static_cast<std::ptrdiff_t>(r * length_) + row.inputs() - row.scored;
  }

  size_t length_;
  std::vector<int32_t> inputs_, targets_;
  std::vector<float> losses_;
};

void count_answers(const ChoiceTask& task, TaskScores& scores) {
  for (size_t q = 0; q < task.questions.size(); ++q) {
    const ChoiceQuestion& question = task.questions[q];
    const std::vector<double>& sums = scores.log_probabilities[q];
    std::vector<double> normalized;
    for (size_t c = 0; c < sums.size(); ++c) normalized.push_back(sums[c] / question.choices[c].length);
    const auto count = [&](const std::vector<double>& values, Accuracy& accuracy) {
      const auto best = std::ranges::max_element(values) - values.begin();
      accuracy.right += best == static_cast<std::ptrdiff_t>(question.answer);
      ++accuracy.questions;
    };
    count(sums, scores.by_sum);
    count(normalized, scores.by_normalized);
  }
}

}  // namespace

double Accuracy::error() const {
  return questions < 2 ? 0 : std::sqrt(value() * (1 - value()) / static_cast<double>(questions - 1));
}

TaskScores score_task(Stream& stream, const ModelConfig& config, const Precision& precision,
                      const ParameterSet& weights, const ChoiceTask& task, const TaskOptions& options) {
  TaskScores scores;
  for (const ChoiceQuestion& question : task.questions) scores.log_probabilities.emplace_back(question.choices.size());
  const std::vector<Row> rows = rows_of(task, config.context, scores.shortened);
  const int64_t longest = rows.front().inputs(), tokens = options.sequences * longest;
  // The longest rows first, by models of half the length and twice the sequences as soon as rows fit.
  for (size_t done = 0; done < rows.size();) {
    int64_t length = longest;
    while (length / 2 >= std::max(rows[done].inputs(), shortest_length)) length /= 2;
    const int64_t sequences = tokens / length;
    Llama model(stream, config, precision, {.sequences = sequences, .length = length, .training = false});
    require_held_memory();
    RowBatch batch(sequences, length);
    while (done < rows.size() && (rows[done].inputs() > length / 2 || length / 2 < shortest_length)) {
      const size_t count = std::min(rows.size() - done, static_cast<size_t>(sequences));
      batch.score(model, weights, std::span(rows).subspan(done, count), scores);
      done += count;
      if (options.progress) options.progress(static_cast<int64_t>(done), std::ssize(rows));
    }
  }
  count_answers(task, scores);
  return scores;
}

}  // namespace nibble
