// The steps of a run, from the first to the last. Not for: how it begins (training_run_start.cpp).
#include "trainer/training_run.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "tensor/error.hpp"
#include "tensor/gemm.hpp"
#include "trainer/gradient_exchange.hpp"
#include "trainer/metric_columns.hpp"
#include "trainer/precision.hpp"
#include "trainer/rank_agreement.hpp"
#include "trainer/report.hpp"
#include "trainer/settings_output.hpp"
#include "trainer/state_on_host.hpp"
#include "trainer/weight_gather.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

/// `language`: that the run learns; null where it learns files.
void add_validation(MetricRow& row, const Evaluation& evaluation, const SyntheticLanguage* language) {
  row.emplace_back("validation_loss", evaluation.loss());
  if (const std::optional<double> bits = evaluation.bits_per_byte())
    row.emplace_back("validation_bits_per_byte", *bits);
  if (const std::optional<double> gap = evaluation.gap()) row.emplace_back("validation_gap", *gap);
  if (language) row.emplace_back("entropy", language->entropy());
}

void add_exchange(MetricRow& row, const ExchangeReport& report) {
  if (report.relative_error) row.emplace_back("exchange_error", *report.relative_error);
  if (report.residual_norm) row.emplace_back("exchange_residual", *report.residual_norm);
  if (report.signal_ratio) row.emplace_back("exchange_signal_ratio", *report.signal_ratio);
}

std::string precision_line(const Precision& precision) {
  if (precision.rules().empty()) return precision.recipe().name;
  return fmt::format("{} with {} overrides", precision.recipe().name, precision.rules().size());
}

void add_updates(MetricRow& row, const StepResult& result) {
  if (result.matrix_bytes > 0) row.emplace_back("bytes_sent_matrices", result.matrix_bytes);
  for (const UpdateFigures& figures : result.updates) {
    row.emplace_back(update_rms_column(figures.group), figures.rms);
    if (figures.orthogonality_error)
      row.emplace_back(orthogonality_error_column(figures.group), *figures.orthogonality_error);
  }
}

}  // namespace

void TrainingRun::save() {
  Stopwatch watch;
  if (stream_.on_device()) tuning_["products"] = gemms_of_all(world_, stream_);
  const CheckpointHeader header{.step = counters_.step,
                                .total_steps = total_steps_,
                                .seed = static_cast<uint64_t>(settings_.run.seed),
                                .model = parts_.model->config(),
                                .tokenizer = data_->tokenizer(),
                                .tokenizer_files = data_->tokenizer_files(),
                                .data = data_->identity(),
                                .tuning = tuning_,
                                .retuned = retuned_,
                                .config_text = settings_yaml(settings_)};
  world_.at(counters_.step, "checkpoint");
  if (metrics_) metrics_->sync();  // a checkpoint never is newer than the rows of its steps
  if (operands_) operands_->sync();
  const StateOnHost on_host(state());
  on_host.fetch(stream_);
  saver_->start(stream_.host(), header, on_host.list());
  saved_step_ = counters_.step;
  since_save_ = Stopwatch();
  seconds_saving_ += watch.seconds();
}

double TrainingRun::peak_share_of(double tokens_per_second) const {
  return tokens_per_second * parts_.model->config().flops_per_token(settings_.data.sequence) * 1e-12 /
         (gemm_peak_ * world_.size());
}

std::optional<double> TrainingRun::epochs_after(int64_t steps) const {
  const int64_t epoch = data_->train().tokens_per_epoch();
  if (epoch == 0) return std::nullopt;
  return static_cast<double>(steps * settings_.batch.tokens) / static_cast<double>(epoch);
}

void TrainingRun::describe() const {
  const ModelConfig& config = parts_.model->config();
  progress_->message(fmt::format("model    {:.2f}M parameters, {} layers of width {}, vocabulary {}, {}",
                                 static_cast<double>(config.parameters()) * 1e-6, config.layers, config.width,
                                 config.vocabulary, precision_line(parts_.model->precision())));
  for (const std::string& warning : warnings_of(parts_.model->precision())) progress_->message("warning: " + warning);
  progress_->message(fmt::format("data     {}: {}", data_->train().name(), data_->train().describe()));
  const std::optional<double> epochs = epochs_after(total_steps_);
  progress_->message(fmt::format("run      {} steps of {} tokens = {:.2f}M tokens, {}in {}", total_steps_,
                                 settings_.batch.tokens,
                                 static_cast<double>(total_steps_ * settings_.batch.tokens) * 1e-6,
                                 epochs ? fmt::format("{:.2f} epochs, ", *epochs) : "", directory()));
  progress_->message("memory   " + memory_text(memory_, "\n         "));
  if (stream_.on_device()) progress_->message("GPU      " + gpu_memory_text(memory_, "\n         "));
  if (world_.size() > 1)
    progress_->message(fmt::format("ranks    {} on {} hosts, shard: {}{}", world_.size(),
                                   std::set(world_.hosts().begin(), world_.hosts().end()).size(), settings_.shard,
                                   gathers_codes(settings_) ? ", weights gathered as codes" : ""));
  if (gpus_ && world_.size() > 1) progress_->message("GPUs     send to each other " + gpus_->description());
  if (world_.size() > 1 || settings_.gradients.virtual_ranks > 0)
    progress_->message("exchange " + parts_.step->exchange());
  if (link_.per_byte > 0)
    progress_->message(fmt::format("links    {:.0f} us, {:.2f} Gbit/s between neighbouring ranks", 1e6 * link_.latency,
                                   8e-9 / link_.per_byte));
  if (settings_.shard == "gradients" && compresses(settings_.gradients))
    progress_->message(
        "warning: a compressed exchange needs each rank's gradient whole: shard gradients does what "
        "optimizer does");
  progress_->message(fmt::format("machine  {} threads, {} kernels, {}; GEMM peak {:.2f} TFLOP/s", stream_.threads(),
                                 name(stream_.isa()), gemm_library(stream_, parts_.model->precision().operands()),
                                 gemm_peak_));
}

std::optional<Evaluation> TrainingRun::run_validation() {
  if (!data_->validation()) return std::nullopt;
  const Evaluation evaluation = evaluate(
      *parts_.model, parts_.step->weights(), *data_->validation(), settings_.validation.tokens, world_,
      [this](int64_t, int64_t) { tell(); }, std::max<int64_t>(counters_.step - 1, 0));
  last_validation_loss_ = evaluation.loss();
  last_validation_gap_ = evaluation.gap();
  std::string more;
  if (const std::optional<double> bits = evaluation.bits_per_byte())
    more = fmt::format(", {:.4f} bits per byte", *bits);
  if (last_validation_gap_)
    more = fmt::format(", {:.4f} above the language's own on these tokens, {:.4f} above its entropy",
                       *last_validation_gap_, evaluation.loss() - data_->language()->entropy());
  progress_->message(fmt::format("step {}: validation loss {:.4f}{}", counters_.step, evaluation.loss(), more));
  return evaluation;
}

void TrainingRun::count(const StepResult& result, const Batch& batch) {
  ++counters_.step;
  if (!result.refused) {
    counters_.loss_tokens += batch.loss_tokens;
    counters_.refused_in_a_row = 0;
    return;
  }
  ++counters_.refused;
  ++counters_.refused_in_a_row;
  progress_->message(fmt::format("step {} refused: loss {}, gradient norm {}; the weights are unchanged",
                                 counters_.step, result.loss, result.gradient_norm));
}

void TrainingRun::judge_exchange(const StepResult& result) {
  constexpr double enough_signal = 3;
  if (const std::optional<double> ratio = result.exchange.signal_ratio;
      ratio && *ratio < enough_signal && !std::exchange(noise_is_known_, true))
    progress_->message(
        fmt::format("warning: step {}: differences of gradients are only {:.2g} times what in them follows no straight "
                    "line (marina "
                    "needs 3): rounding, then train in fp32; or steps so large that gradients curve",
                    counters_.step, *ratio));
  constexpr int64_t first_judged = 4, last_judged = 24;
  if (link_.per_byte == 0 || settings_.shard != "none" || counters_.step <= first_judged || judged_steps_ < 0) return;
  // The least: the communication thread's time holds waiting for ranks that are late.
  fastest_exchange_ =
      judged_steps_ == 0 ? result.seconds.communication : std::min(fastest_exchange_, result.seconds.communication);
  if (++judged_steps_ < last_judged - first_judged) return;
  judged_steps_ = -1;
  const SumSize dense{
      .ranks = world_.size(), .length = parts_.model->config().parameters(), .entries = 1, .dense = Wire::bf16};
  const double seconds = sum_costs(dense, {.latency = link_.latency, .per_byte = link_.per_byte}).front().seconds;
  if (fastest_exchange_ > seconds)
    progress_->message(
        fmt::format("warning: gradients take {:.3g} s a step; sent dense in bf16 they would take about {:.3g} "
                    "s on these links: set gradients.exchange=dense, wire=bf16",
                    fastest_exchange_, seconds));
}

void TrainingRun::refuse_divergence() const {
  throw Error(
      {.kind = ErrorKind::numerics,
       .what = "the run diverged: losses or gradients are not finite",
       .where = fmt::format("{}, step {}", directory(), counters_.step),
       .seen = fmt::format("{} refused steps in a row", counters_.refused_in_a_row),
       .allowed = fmt::format("fewer than run.max_refused = {}", settings_.run.max_refused),
       .next = saved_step_ > 0
                   ? fmt::format("go on from step {} with --resume --set optimizer.learning_rate=<lower>", saved_step_)
                   : "start again with a lower optimizer.learning_rate"});
}

bool TrainingRun::agree() {
  const double interval = settings_.run.checkpoint.interval;
  const bool due = world_.is_first() && interval > 0 && since_save_.seconds() >= interval;
  const std::vector<double> agreed =
      largest_of_all(world_, {static_cast<double>(InterruptScope::wish()), due ? 1.0 : 0, saver_->idle() ? 0 : 1.0});
  wish_ = static_cast<StopWish>(agreed[0]);
  if (saver_->under_way() && agreed[2] == 0) {
    Stopwatch watch;
    saver_->advance();
    seconds_saving_ += watch.seconds();
  }
  return agreed[1] > 0;
}

void TrainingRun::train_one_step() {
  Stopwatch whole, watch;
  world_.at(counters_.step, "data");
  Batch batch = prefetcher_->next();
  // The windows of the steps to come, which nothing has been learned from yet.
  if (const int64_t batches = parts_.step->batches(counters_.step); batches > 1)
    batch = data_->train().batch(counters_.step * sequences_per_step_, sequences_per_step_ * batches);
  const double seconds_data = watch.lap();
  const StepResult result =
      parts_.step->run(counters_.step, batch, operands_ ? operands_->observer(counters_.step + 1) : nullptr);
  count(result, batch);

  watch.lap();
  const bool last = counters_.step == last_step_;
  const bool validates = last || (settings_.validation.every > 0 && counters_.step % settings_.validation.every == 0);
  const std::optional<Evaluation> evaluation = validates ? run_validation() : std::nullopt;
  const double seconds_validation = watch.lap();
  const double seconds_training =
      seconds_data + result.seconds.forward_backward + result.seconds.exchange + result.seconds.optimizer;
  const double tokens_per_second = static_cast<double>(settings_.batch.tokens) / seconds_training;
  const double seconds_saving = std::exchange(seconds_saving_, 0);  // after the step before
  rate_.add(whole.seconds() + seconds_saving, settings_.batch.tokens);
  MetricRow row = {{"step", counters_.step},
                   {"time", wall_time()},
                   {"tokens", counters_.step * settings_.batch.tokens},
                   {"loss_tokens", counters_.loss_tokens},
                   {"loss", result.loss},
                   {"learning_rate", result.learning_rate},
                   {"gradient_norm", result.gradient_norm},
                   {"max_logit", result.max_logit},
                   {"refused", result.refused},
                   {"tokens_per_second", tokens_per_second},
                   {"peak_share", peak_share_of(tokens_per_second)},
                   {"seconds", whole.seconds()},
                   {"seconds_data", seconds_data},
                   {"seconds_forward_backward", result.seconds.forward_backward},
                   {"seconds_exchange", result.seconds.exchange},
                   {"seconds_optimizer", result.seconds.optimizer},
                   {"seconds_validation", seconds_validation},
                   {"seconds_checkpoint", seconds_saving},
                   {"seconds_communication", result.seconds.communication},
                   {"bytes_sent", result.bytes_sent},
                   {"peak_resident_bytes", static_cast<int64_t>(resident_memory().peak)},
                   {"retuned", retuned_}};
  if (const std::optional<double> epochs = epochs_after(counters_.step)) row.emplace_back("epoch", *epochs);
  if (settings_.loss.z_loss > 0) row.emplace_back("z_loss", result.z_loss);
  if (settings_.optimizer.qk_clip > 0) row.emplace_back("clipped_heads", result.clipped_heads);
  if (evaluation) add_validation(row, *evaluation, data_->language());
  add_exchange(row, result.exchange);
  add_updates(row, result);
  if (metrics_) metrics_->write(row);
  judge_exchange(result);
  if (operands_) operands_->write(counters_.step);
  told_ = {.step = counters_.step,
           .total_steps = total_steps_,
           .loss = result.loss,
           .validation_loss = last_validation_loss_,
           .validation_gap = last_validation_gap_,
           .learning_rate = result.learning_rate,
           .gradient_norm = result.gradient_norm,
           .tokens_per_second = rate_.tokens_per_second(),
           .peak_share = peak_share_of(rate_.tokens_per_second()),
           .seconds_left = rate_.seconds_for(last_step_ - counters_.step),
           .refused = counters_.refused};
  progress_->update(told_);
  tell();

  const CheckpointSettings& checkpoint = settings_.run.checkpoint;
  const bool due = agree();
  const bool saves = last || due || (checkpoint.every > 0 && counters_.step % checkpoint.every == 0);
  if (saves && !result.refused) save();
}

void TrainingRun::tell() const {
  if (options_.on_progress && world_.is_first()) options_.on_progress(told_);
}

TrainingRun::Outcome TrainingRun::run() {
  const InterruptScope signals;
  last_step_ = options_.stop_at > 0 ? std::min(options_.stop_at, total_steps_) : total_steps_;
  told_ = {.step = counters_.step, .total_steps = total_steps_};
  describe();
  if (counters_.step == 0) {
    if (const std::optional<Evaluation> evaluation = run_validation()) {
      MetricRow row = {{"step", int64_t{0}}, {"time", wall_time()}, {"tokens", int64_t{0}}};
      add_validation(row, *evaluation, data_->language());
      if (metrics_) metrics_->write(row);
    }
  }
  since_save_ = Stopwatch();
  prefetcher_ = std::make_unique<Prefetcher>(
      [this](int64_t step) { return data_->train().batch(step * sequences_per_step_, sequences_per_step_); },
      counters_.step);
  // A rank that fails in here ends before its memory goes, into which others may still be sending.
  world_.run([this] {
    agree();
    while (counters_.step < last_step_ && wish_ == StopWish::none && !diverged()) train_one_step();
    if (saved_step_ != counters_.step && !diverged()) save();
    saver_->finish();
  });
  if (diverged()) refuse_divergence();
  progress_->message(fmt::format("memory   {} resident at its peak, {} foreseen", format_bytes(resident_memory().peak),
                                 format_bytes(memory_.peak())));
  progress_->finish();
  if (world_.is_first()) {
    const fs::path run = directory();
    write_report(std::span(&run, 1), run / "report.html");
  }
  if (counters_.step == total_steps_) return Outcome::finished;
  if (counters_.step >= last_step_) return Outcome::paused;
  return wish_ == StopWish::requeue ? Outcome::requeue : Outcome::interrupted;
}

}  // namespace nibble
