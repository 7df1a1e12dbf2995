// What a person sees while a run or other long work goes on: one line that is rewritten on a terminal, or a line every
// few seconds in a log, and how long the rest will take.
//
// Not for what is kept (trainer/metrics.hpp). Nothing here reads a clock except Progress and WorkProgress, which are
// given one.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>

namespace nibble {

/// The smoothed speed of a run, from the durations of its steps.
class RateEstimator {
 public:
  /// A step's weight falls by e every `memory` seconds of run time.
  explicit RateEstimator(double memory = 30) : memory_(memory) {}

  /// One more step: its duration with all that belongs to it (validation, checkpoint) and its tokens.
  void add(double seconds, int64_t tokens);

  /// 0 before the first step.
  double tokens_per_second() const;
  /// Time of `steps` more steps at the smoothed speed; empty before the first step.
  std::optional<double> seconds_for(int64_t steps) const;

 private:
  double memory_;
  double seconds_ = 0, tokens_ = 0, steps_ = 0;  // weighted sums
};

/// The state after a step.
struct ProgressState {
  int64_t step = 0;  ///< steps done
  int64_t total_steps = 0;
  double loss = 0;  ///< nats per token
  std::optional<double> validation_loss{};
  std::optional<double> validation_gap{};  ///< to what a synthetic language itself loses, nats per token
  double learning_rate = 0;
  double gradient_norm = 0;
  double tokens_per_second = 0;
  std::optional<double> peak_share{};  ///< achieved / measured GEMM FLOP/s, in [0, 1]
  std::optional<double> seconds_left{};
  int64_t refused = 0;  ///< steps refused so far because the loss or gradient was not finite
};

/// One line of at most `width` columns (0: no limit); where it is too narrow, what matters least is left out.
std::string progress_line(const ProgressState& state, int width = 0);

/// 75 -> "1:15", 7384 -> "2:03:04", 200000 -> "2d 07:33".
std::string format_duration(double seconds);

class Progress {
 public:
  struct Options {
    std::FILE* out = stderr;          ///< null: nothing is shown
    bool terminal = false;            ///< rewrite one line; else append lines
    double interval = 10;             ///< seconds between lines of a log (a terminal: 0.1)
    std::function<int()> width{};     ///< of the terminal, asked at each line; empty: 80
    std::function<double()> clock{};  ///< seconds; empty: the steady clock
  };
  explicit Progress(Options options);
  /// Writes to stderr: a live line if that is a terminal, else a line every `interval` seconds.
  static Progress to_stderr(double interval);
  /// For the ranks that do not speak.
  static Progress silent();
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Shows the state if it is time to; the first and the last step are always shown.
  void update(const ProgressState& state);
  /// A line of its own that stays: a validation loss, a checkpoint, a refused step.
  void message(const std::string& text);
  /// Leaves the terminal's line complete; called by the destructor too.
  void finish();

 private:
  Options options_;
  std::optional<double> last_shown_;
  bool line_open_ = false;
};

/// The line of work that is no training: "tokenizing: 40% of 120.0 MB, 3.1 MB/s, 0:23 left". Short work shows none.
class WorkProgress {
 public:
  /// `scale`: how many of what `update` counts make one `unit` ("MB", 1e6; "windows", 1). Writes to stderr.
  WorkProgress(std::string verb, std::string unit, double scale = 1);
  WorkProgress(std::string verb, std::string unit, double scale, Progress::Options options);
  /// Leaves the terminal's line complete.
  ~WorkProgress();
  WorkProgress(const WorkProgress&) = delete;
  WorkProgress& operator=(const WorkProgress&) = delete;

  /// Shows a line if it is time to: none in the first two seconds.
  void update(int64_t done, int64_t total);

 private:
  std::string verb_, unit_;
  double scale_;
  Progress::Options options_;
  double start_, next_;  ///< seconds of the clock
  bool line_open_ = false;
};

}  // namespace nibble
