// A training run: data, model, steps, validation, checkpoints, metrics, from start or resume to the end.
//
// Not for: the arithmetic of a step (train_step.hpp) and not for the command line (command_train.hpp).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/exchange_cost.hpp"
#include "data/prefetcher.hpp"
#include "trainer/checkpoint.hpp"
#include "trainer/checkpoint_saver.hpp"
#include "trainer/evaluation.hpp"
#include "trainer/gpu_ranks.hpp"
#include "trainer/interrupt.hpp"
#include "trainer/metrics.hpp"
#include "trainer/operand_record.hpp"
#include "trainer/progress.hpp"
#include "trainer/run_lock.hpp"
#include "trainer/run_memory.hpp"
#include "trainer/run_parts.hpp"
#include "trainer/settings.hpp"
#include "trainer/stopwatch.hpp"
#include "trainer/train_step.hpp"

namespace nibble {

struct TrainingRunOptions {
  World* world = nullptr;  ///< the ranks, which must outlive the run; null: this process alone
  bool resume = false;     ///< go on from the newest valid checkpoint of the run's directory, if it has one
  bool retune = false;     ///< accept that instruction set, threads or libraries differ from the checkpoint's
  /// Pause after this step, which is validated and saved (0: none).
  int64_t stop_at = 0;
  /// Steps whose checkpoints are kept, whatever run.checkpoint says.
  std::vector<int64_t> kept_steps{};
  /// Who owns the run's directory otherwise than by its lock, which is then not taken: called on the first rank before
  /// the run's files are opened, before a checkpoint is begun and before it is committed, also by another thread.
  /// Throws when another has taken over.
  std::function<void()> require_ownership{};
  /// Told on the first rank, after each step and in the course of validations, how far the run is.
  std::function<void(const ProgressState&)> on_progress{};
  /// Replaces the exchange that the settings name; for tests.
  MakeExchange make_exchange{};
  /// Replaces what the machine has; for tests.
  std::function<AvailableMemory()> memory = [] { return available_memory(); };
};

class TrainingRun {
 public:
  enum class Outcome { finished, paused, interrupted, requeue };

  /// Opens the data, builds the model, and starts or resumes the run's directory. Every rank does the same; the
  /// first alone writes the directory and speaks.
  /// Throws Error: configuration (contradictions, ranks that differ, a directory that holds a run already, another
  /// identity than the checkpoint's, a branch without steps of its own), data, checkpoint, resource.
  TrainingRun(const Settings& settings, const TrainingRunOptions& options);
  ~TrainingRun();

  /// Runs to the last step, to stop_at, or until a signal asks to stop; saves either way.
  /// Throws Error{numerics}, on all ranks, after run.max_refused refused steps in a row; the checkpoints of before
  /// remain.
  Outcome run();

  int64_t step() const { return counters_.step; }  ///< steps done
  int64_t total_steps() const { return total_steps_; }
  const std::string& directory() const { return settings_.run.directory; }

 private:
  void require_same_run();
  /// Measures the links if the exchange depends on them, or takes what the checkpoint's run measured.
  void know_links(const std::optional<VerifiedCheckpoint>& checkpoint);
  /// On GPUs: how ranks send to each other, as in the checkpoint's run where they can.
  void link_gpus(const std::optional<VerifiedCheckpoint>& checkpoint);
  /// On a GPU: the library multiplies as it did in the checkpoint's run, or as is fastest.
  void know_products(const std::optional<VerifiedCheckpoint>& checkpoint);
  /// On GPUs: as is fastest on the first rank.
  void share_products();
  /// Says, once each, what a user should know of how the exchange does.
  void judge_exchange(const StepResult& result);
  /// The newest checkpoint of the run's directory, if this run resumes and there is one; else its trunk's, if it is a
  /// branch.
  std::optional<VerifiedCheckpoint> find_checkpoint();
  std::optional<VerifiedCheckpoint> newest_checkpoint();
  void pass_over(const std::vector<RefusedCheckpoint>& refused) const;
  /// Whether the checkpoint is another run's, from which this one branches.
  bool is_trunk(const VerifiedCheckpoint& checkpoint) const;
  /// Says how the learning rate goes on.
  void judge_branch(const CheckpointHeader& trunk) const;
  void build(const std::optional<VerifiedCheckpoint>& checkpoint);
  /// Throws unless settings, data, tokenizer and tuning are those that the checkpoint's run had. A branch may have
  /// another optimizer, which begins anew.
  void refuse_another_run(const VerifiedCheckpoint& checkpoint);
  void begin_directory(bool resumed);
  void describe() const;

  void train_one_step();
  void tell() const;
  void count(const StepResult& result, const Batch& batch);
  std::optional<Evaluation> run_validation();
  void save();
  bool diverged() const { return counters_.refused_in_a_row >= settings_.run.max_refused; }
  [[noreturn]] void refuse_divergence() const;
  /// Hears whether any rank was told to end, goes on with the save that is under way if all ranks can, and returns
  /// whether the first one's clock says that another is due.
  bool agree();
  /// Takes the lock of the run's directory, once, unless it is owned otherwise.
  void hold_directory();
  StateList state();
  double peak_share_of(double tokens_per_second) const;
  /// Empty where data is endless.
  std::optional<double> epochs_after(int64_t steps) const;
  std::string resolved_config() const;

  Settings settings_;
  TrainingRunOptions options_;
  std::unique_ptr<World> alone_;
  World& world_;
  Stream stream_;
  std::unique_ptr<GpuRanks> gpus_;  ///< of a run on GPUs; before what sends over them
  RunMemory memory_;                ///< foreseen
  nlohmann::json tuning_;
  LinkCost link_;  ///< the slowest between neighbouring ranks; zeros: not measured
  std::unique_ptr<RunLock> lock_;
  std::unique_ptr<RunData> data_;
  RunParts parts_;
  std::unique_ptr<Prefetcher> prefetcher_;
  std::unique_ptr<MetricsWriter> metrics_;
  std::unique_ptr<OperandRecord> operands_;
  std::unique_ptr<Progress> progress_;
  std::unique_ptr<CheckpointSaver> saver_;  ///< behind what its threads use
  RateEstimator rate_;
  double gemm_peak_ = 0;  ///< TFLOP/s
  int64_t total_steps_ = 0, sequences_per_step_ = 0;
  int64_t last_step_ = 0;  ///< of this call of run()
  ProgressState told_;     ///< last

  RunCounters counters_;

  StopWish wish_ = StopWish::none;   ///< the strongest of all ranks
  bool switches_optimizer_ = false;  ///< at the branch
  bool retuned_ = false;             ///< the run once went on with another tuning
  int64_t saved_step_ = -1;          ///< of the last checkpoint that was begun
  Stopwatch since_save_;
  double seconds_saving_ = 0;  ///< in which training waited for saves, for the next row of the metrics
  std::optional<double> last_validation_loss_, last_validation_gap_;
  double fastest_exchange_ = 0;  ///< seconds, of the steps that are judged
  int64_t judged_steps_ = 0;
  bool noise_is_known_ = false;
};

}  // namespace nibble
