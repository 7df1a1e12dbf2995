#include "trainer/sweep_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "trainer/checkpoint.hpp"
#include "trainer/fit_runs.hpp"
#include "trainer/metrics_reader.hpp"
#include "trainer/precision.hpp"
#include "trainer/quantile.hpp"
#include "trainer/recipe_yaml.hpp"
#include "trainer/report_run.hpp"
#include "trainer/settings_output.hpp"
#include "trainer/units.hpp"
#include "trainer/version.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

ordered_json number(std::optional<double> value) {
  return value && std::isfinite(*value) ? ordered_json(*value) : ordered_json(nullptr);
}

std::optional<double> quantile_of(const std::vector<double>& values, double share) {
  return values.empty() ? std::nullopt : std::optional(quantile(values, share));
}

/// Forgets by a tenth with every step.
std::optional<double> smoothed_end(const std::vector<double>& losses) {
  constexpr double forgetting = 0.1;
  std::optional<double> mean;
  for (const double loss : losses) mean = mean ? *mean + forgetting * (loss - *mean) : loss;
  return mean;
}

struct Result {
  MetricTable metrics;
  Manifest manifest;  ///< of the last step's checkpoint

  /// In the last row; `number` leaves out what is not finite there.
  std::optional<double> last(const std::string& column) const {
    const std::vector<double>& values = metrics[column];
    return values.empty() ? std::nullopt : std::optional(values.back());
  }
};

std::optional<double> final_loss(const Result& result) { return result.last("validation_loss"); }

ordered_json model_fields(const ModelConfig& config) {
  return {{"N_total", config.parameters()},
          {"N_nonemb", config.non_embedding_parameters()},
          {"d", config.width},
          {"L", config.layers},
          {"H", config.heads},
          {"KV", config.kv_heads},
          {"ffn", config.ffn},
          {"vocab", config.vocabulary},
          {"tied", config.tied}};
}

ordered_json precision_fields(const PrecisionSettings& precision) {
  ordered_json parts = ordered_json::array();
  for (const Recipe& recipe : recipes_of(precision)) parts.push_back(print_recipe(recipe));
  const PassNames passes = name_passes(precision);
  return {{"recipe", precision.recipe},
          {"forward", passes.forward},
          {"backward", passes.backward},
          {"kept_bf16", {precision.keep_bf16.first, precision.keep_bf16.last}},
          {"parts", parts}};
}

ordered_json optimizer_fields(const OptimizerSettings& optimizer) {
  return {{"name", optimizer.name}, {"lr", optimizer.learning_rate}, {"wd", optimizer.weight_decay},
          {"b1", optimizer.beta1},  {"b2", optimizer.beta2},         {"moments", optimizer.moments},
          {"clip", optimizer.clip}};
}

ordered_json schedule_fields(const LearningRateSettings& schedule) {
  return {{"name", schedule.name},
          {"warmup", format_steps_or_share(schedule.warmup)},
          {"decay", format_steps_or_share(schedule.decay)},
          {"final", schedule.final}};
}

ordered_json curve(const MetricTable& metrics) {
  const std::vector<double>&steps = metrics["step"], &losses = metrics["validation_loss"];
  ordered_json points = ordered_json::array();
  for (size_t i = 0; i < losses.size(); ++i)
    if (std::isfinite(losses[i])) points.push_back({static_cast<int64_t>(steps[i]), losses[i]});
  return points;
}

void append(ordered_json& row, const ordered_json& fields) {
  for (const auto& field : fields.items()) row[field.key()] = field.value();
}

ordered_json fit_row(const SweepPlan& plan, const std::vector<std::optional<Result>>& results, size_t index) {
  const SweepRun& run = plan.runs[index];
  const Settings& settings = run.settings;
  const Result& result = *results[index];
  const ModelConfig& config = result.manifest.header.model;
  const auto tokens = static_cast<double>(run.steps * settings.batch.tokens);
  const nlohmann::json& data = result.manifest.header.data;
  ordered_json row = {{"run_id", run.name},
                      {"role", run.role_name()},
                      {"nibble", versions().front().second},
                      {"config_hash", hex(checksum(bytes_of(settings_yaml(without_place(settings)))))},
                      {"seed", settings.run.seed},
                      {"from", settings.model.from}};
  append(row, model_fields(config));
  append(row, {{"D_tokens", tokens},
               {"steps", run.steps},
               {"batch_tokens", settings.batch.tokens},
               {"seq_len", settings.data.sequence},
               {"D_over_N", tokens / static_cast<double>(config.non_embedding_parameters())},
               {"flops", tokens * config.flops_per_token(settings.data.sequence)},
               {"optimizer", optimizer_fields(settings.optimizer)},
               {"schedule", schedule_fields(settings.schedule)},
               {"precision", precision_fields(settings.precision)},
               {"exchange", settings.gradients.exchange},
               {"trunk", run.trunk ? ordered_json(plan.runs[*run.trunk].name) : ordered_json(nullptr)},
               {"first_step", run.first_step},
               {"final_val_loss_nats", number(final_loss(result))},
               {"entropy", number(result.last("entropy"))},
               {"gap_to_entropy", number(result.last("validation_gap"))},
               {"bits_per_byte", number(result.last("validation_bits_per_byte"))},
               {"best_val", number(quantile_of(result.metrics.numbers("validation_loss"), 0))},
               {"val_curve", curve(result.metrics)},
               {"final_train_loss", number(smoothed_end(result.metrics.numbers("loss")))},
               {"grad_norm_p50", number(quantile_of(result.metrics.numbers("gradient_norm"), 0.5))},
               {"grad_norm_p99", number(quantile_of(result.metrics.numbers("gradient_norm"), 0.99))},
               {"skipped_steps", number(result.metrics.sum("refused").value_or(0))},
               {"data", ordered_json(data)}});
  if (run.twin && results[*run.twin]) {
    row["twin"] = plan.runs[*run.twin].name;
    const std::optional<double> own = final_loss(result), other = final_loss(*results[*run.twin]);
    row["gap_to_twin"] = own && other ? number(*own - *other) : number({});
  }
  return row;
}

std::string cell(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

std::string cell(const ordered_json& row, const char* key) {
  const auto found = row.find(key);
  if (found == row.end() || found->is_null()) return "";
  return cell(found->is_string() ? found->get<std::string>() : found->dump());
}

std::vector<std::string> axis_keys(const SweepPlan& plan) {
  std::vector<std::string> keys;
  for (const SweepRun& run : plan.runs)
    for (const auto& [key, value] : run.assignments)
      if (std::ranges::find(keys, key) == keys.end()) keys.push_back(key);
  return keys;
}

std::string axis_cell(const SweepRun& run, const std::string& key) {
  for (const auto& [own, value] : run.assignments)
    if (own == key) return cell(value);
  return "";
}

}  // namespace

void write_sweep_tables(const SweepPlan& plan, std::span<const TaskState> states) {
  const std::vector<size_t> current = current_tasks(plan, states);
  const auto finished = [&](size_t run) {
    return states[current[run]] == TaskState::finished && plan.tasks[current[run]].until == plan.runs[run].steps;
  };
  std::vector<std::optional<Result>> results(plan.runs.size());
  for (size_t i = 0; i < plan.runs.size(); ++i) {
    const fs::path run = plan.runs[i].settings.run.directory;
    if (finished(i) && plan.runs[i].role != SweepRun::Role::trunk)
      results[i].emplace(Result{.metrics = MetricTable(metrics_path(run)),
                                .manifest = read_manifest(checkpoint_path(run, plan.runs[i].steps))});
  }
  const std::vector<std::string> keys = axis_keys(plan);
  constexpr const char* figures[] = {"N_nonemb",      "D_tokens", "final_val_loss_nats",
                                     "bits_per_byte", "twin",     "gap_to_twin"};
  std::string lines, csv = "run,role,state", timing = "run,seconds,tokens_per_second,peak_memory_bytes,retuned\n";
  for (const std::string& key : keys) csv += "," + cell(key);
  for (const char* figure : figures) csv += fmt::format(",{}", figure);
  csv += "\n";
  for (size_t i = 0; i < plan.runs.size(); ++i) {
    const SweepRun& run = plan.runs[i];
    if (run.role == SweepRun::Role::trunk) continue;
    const ordered_json row = results[i] ? fit_row(plan, results, i) : ordered_json::object();
    csv += fmt::format("{},{},{}", cell(run.name), run.role_name(), name(states[current[i]]));
    for (const std::string& key : keys) csv += "," + axis_cell(run, key);
    for (const char* figure : figures) csv += "," + cell(row, figure);
    csv += "\n";
    if (!results[i]) continue;
    lines += row.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
    const MetricTable& metrics = results[i]->metrics;
    const std::vector<double> speeds = metrics.numbers("tokens_per_second");
    timing += fmt::format("{},{:.6g},{:.6g},{:.0f},{:.0f}\n", cell(run.name), metrics.sum("seconds").value_or(0),
                          speeds.empty() ? 0 : median(speeds),
                          quantile_of(metrics.numbers("peak_resident_bytes"), 1).value_or(0),
                          metrics.sum("retuned").value_or(0));
  }
  write_file_atomically(plan.directory / "runs.jsonl", lines);
  write_file_atomically(plan.directory / "sweep.csv", csv);
  write_file_atomically(plan.directory / "timing.csv", timing);
}

}  // namespace nibble
