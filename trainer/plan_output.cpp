#include "trainer/plan_output.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace nibble {
namespace {

std::string bytes_text(int64_t bytes) {
  constexpr int64_t mebibyte = int64_t{1} << 20;
  return bytes < mebibyte ? fmt::format("{} bytes", bytes) : format_bytes(static_cast<size_t>(bytes));
}

const char* name(RunPlan::Speed speed) {
  switch (speed) {
    case RunPlan::Speed::none_needed:
      return "one rank sends nothing";
    case RunPlan::Speed::measured:
      return "measured between these ranks";
    case RunPlan::Speed::given:
      return "as given";
    case RunPlan::Speed::unknown:
      return "unknown, and counted as no time: give --link and --latency, or start it on the ranks";
  }
  return "";
}

std::string wire_text(const RunPlan& plan) {
  const StepForecast& step = plan.step;
  return fmt::format(
      "a step of rank 0 sends\n"
      "  gradients      {:>12}\n"
      "  weights        {:>12}\n"
      "{}"
      "  control        {:>12}  losses, block sums, statistics, logits\n"
      "  together       {:>12}  {} messages\n"
      "  links          {}{}\n",
      bytes_text(step.gradient_bytes), bytes_text(step.weight_bytes),
      step.matrix_bytes > 0
          ? fmt::format("  matrices       {:>12}  to who updates them, and back\n", bytes_text(step.matrix_bytes))
          : "",
      bytes_text(step.control_bytes), bytes_text(step.bytes()), step.messages, name(plan.speed_is),
      plan.speed.summed_bytes_per_second > 0
          ? fmt::format(": sums {:.1f} MB/s, gathers {:.1f} MB/s, {:.0f} us a message",
                        plan.speed.summed_bytes_per_second * 1e-6, plan.speed.gathered_bytes_per_second * 1e-6,
                        plan.speed.latency * 1e6)
          : "");
}

std::string rate_text(const SumMeasurement& sum, const SumMeasurement& dense) {
  const std::optional<double> rate = break_even_rate(sum, dense);
  return rate ? fmt::format("up to {:.3g} Gbit/s", 8e-9 * *rate) : "on any link";
}

std::string exchanges_text(const RunPlan& plan) {
  if (plan.exchanges.empty()) return "";
  std::string text = fmt::format(
      "gradients of a step among {} ranks, as measured in this process: MB that a rank sends, its CPU time, and on "
      "which\n"
      "links that is faster than dense in bf16\n",
      plan.played_ranks);
  const SumMeasurement& dense = plan.exchanges.front();
  for (const SumMeasurement& sum : plan.exchanges)
    text += fmt::format("  {:<14} {:>10.3f} MB {:>9.2f} ms  {}\n", sum.name, 1e-6 * sum.bytes,
                        1e3 * sum.processor_seconds, &sum == &dense ? "" : rate_text(sum, dense));
  return text + "\n";
}

nlohmann::ordered_json exchanges_json(const RunPlan& plan) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const SumMeasurement& sum : plan.exchanges) {
    const std::optional<double> rate = break_even_rate(sum, plan.exchanges.front());
    list.push_back({{"exchange", sum.name},
                    {"bytes", sum.bytes},
                    {"processor_seconds", sum.processor_seconds},
                    {"break_even_bytes_per_second", rate ? nlohmann::ordered_json(*rate) : nullptr}});
  }
  return list;
}

/// "989.4 TFLOP/s of bf16, 1978.9 of FP8".
std::string rates_text(const DatasheetPeaks& peaks) {
  std::string text = fmt::format("{} TFLOP/s of bf16, {} of FP8", peaks.bf16, peaks.fp8);
  if (peaks.fp4 > 0) text += fmt::format(", {} of FP4", peaks.fp4);
  return text;
}

std::string estimate_text(const RunPlan& plan) {
  if (!plan.estimate) return "";
  return fmt::format("  an estimate from the datasheet of {}: {}, {} GB/s; no run reaches these\n", plan.estimate->name,
                     rates_text(*plan.estimate), plan.estimate->bandwidth);
}

std::string time_text(const RunPlan& plan) {
  const StepForecast& step = plan.step;
  if (!plan.no_compute.empty())
    return fmt::format("time of a step: not predicted, since no micro-batch could be run here\n  {}\n",
                       plan.no_compute);
  const char* const source = plan.estimate ? "estimated" : "measured";
  return fmt::format(
             "a step takes{}\n"
             "  passes         {:>9.1f} ms  {} micro-batches of {:.1f} ms, {}\n"
             "  optimizer      {:>9.1f} ms  {}, of what this rank updates\n"
             "  communication  {:>9.1f} ms  most of it beside the passes\n"
             "  waiting for it {:>9.1f} ms\n"
             "  slowed by it   {:>9.1f} ms{}\n"
             "  together       {:>9.1f} ms  {:.0f} tokens/s{}\n",
             plan.estimate ? " at least" : "", step.forward_backward * 1e3, step.turns,
             step.forward_backward / static_cast<double>(step.turns) * 1e3, source, step.optimizer * 1e3, source,
             step.communication * 1e3, step.exposed * 1e3, step.slowed * 1e3,
             plan.speed_is == RunPlan::Speed::given ? "  not known, counted as none" : "", step.step() * 1e3,
             static_cast<double>(plan.tokens) / step.step(),
             plan.speed_is == RunPlan::Speed::unknown ? ", without communication" : "") +
         estimate_text(plan);
}

std::string limits_text(const RunPlan& plan) {
  const std::string host = fmt::format("{} ({})", format_bytes(plan.most.bytes), plan.most.limit);
  if (!plan.on_gpu()) return fmt::format("memory of a rank: {}\n", host);
  return fmt::format("memory of a rank on its GPU: {} ({}); on the host: {}\n", format_bytes(plan.most_gpu.bytes),
                     plan.most_gpu.limit, plan.knows_host() ? host : "that of another machine");
}

std::string candidates_text(const RunPlan& plan) {
  size_t widest = 8;
  for (const MemoryCandidate& candidate : plan.candidates) widest = std::max(widest, candidate.change.size() + 4);
  bool found = false;
  const auto row = [&](const std::string& change, const MemoryCandidate& candidate) {
    const bool first = !found && plan.limits().hold(candidate);
    found |= first;
    const std::string host =
        plan.on_gpu() ? fmt::format("  and {:>10} of the host", format_bytes(candidate.bytes)) : "";
    return fmt::format("  {:<{}}  {:>10}{}{}\n", change, widest,
                       format_bytes(plan.on_gpu() ? candidate.gpu : candidate.bytes), host, first ? "  fits" : "");
  };
  std::string text = limits_text(plan) + row("as given", {"", total(plan.memory.table), total(plan.memory.gpu)});
  for (const MemoryCandidate& candidate : plan.candidates) text += row("and " + candidate.change, candidate);
  return text;
}

nlohmann::ordered_json candidates_json(const RunPlan& plan) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const MemoryCandidate& candidate : plan.candidates) {
    list.push_back({{"and", candidate.change}, {"bytes", candidate.bytes}, {"fits", plan.limits().hold(candidate)}});
    if (plan.on_gpu()) list.back()["gpu_bytes"] = candidate.gpu;
  }
  return list;
}

/// What of a GPU is in the answer.
nlohmann::ordered_json gpu_json(const RunPlan& plan) {
  if (!plan.on_gpu()) return nullptr;
  return {{"rows", plan.memory.gpu},
          {"bytes", total(plan.memory.gpu)},
          {"memory_of_a_rank", plan.most_gpu.bytes},
          {"memory_from", plan.most_gpu.limit}};
}

}  // namespace

std::string plan_text(const RunPlan& plan) {
  return fmt::format("{:.2f}M parameters on {} ranks, shard: {}, {} tokens a step\n\nmemory of rank 0\n  {}\n\n",
                     static_cast<double>(plan.parameters) * 1e-6, plan.ranks, plan.shard, plan.tokens,
                     memory_text(plan.memory, "\n  ")) +
         (plan.on_gpu()
              ? fmt::format("of its GPU, without what the driver takes\n  {}\n\n", gpu_memory_text(plan.memory, "\n  "))
              : "") +
         wire_text(plan) + "\n" + exchanges_text(plan) + time_text(plan) + "\n" + candidates_text(plan);
}

nlohmann::ordered_json plan_json(const RunPlan& plan) {
  const StepForecast& step = plan.step;
  nlohmann::ordered_json seconds = nullptr;
  if (plan.no_compute.empty())
    seconds = {{"forward_backward", step.forward_backward},
               {"optimizer", step.optimizer},
               {"communication", step.communication},
               {"exposed", step.exposed},
               {"slowed", step.slowed},
               {"step", step.step()}};
  return {
      {"ranks", plan.ranks},
      {"shard", plan.shard},
      {"parameters", plan.parameters},
      {"tokens", plan.tokens},
      {"memory", {{"rows", plan.memory.table}, {"token_files", plan.memory.token_files}, {"peak", plan.memory.peak()}}},
      {"bytes_sent",
       {{"gradients", step.gradient_bytes},
        {"weights", step.weight_bytes},
        {"matrices", step.matrix_bytes},
        {"control", step.control_bytes},
        {"step", step.bytes()},
        {"messages", step.messages}}},
      {"links",
       {{"from", name(plan.speed_is)},
        {"latency_seconds", plan.speed.latency},
        {"summed_bytes_per_second", plan.speed.summed_bytes_per_second},
        {"gathered_bytes_per_second", plan.speed.gathered_bytes_per_second},
        {"core_share", plan.speed.core_share}}},
      {"exchanges", exchanges_json(plan)},
      {"seconds", seconds},
      {"not_measured", plan.no_compute},
      {"estimated_for", plan.estimate ? nlohmann::ordered_json(plan.estimate->name) : nullptr},
      {"gpu", gpu_json(plan)},
      {"memory_of_a_rank", plan.knows_host() ? nlohmann::ordered_json(plan.most.bytes) : nullptr},
      {"fits", plan.fits()},
      {"smaller", candidates_json(plan)}};
}

}  // namespace nibble
