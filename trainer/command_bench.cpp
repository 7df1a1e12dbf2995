#include "trainer/command_bench.hpp"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "trainer/command_allreduce.hpp"
#include "trainer/command_inputs.hpp"
#include "trainer/command_kernels.hpp"
#include "trainer/memory.hpp"
#include "trainer/step_measurement.hpp"
#include "trainer/yaml_settings.hpp"

namespace nibble {
namespace {

/// The 30M Llama of the papers, one micro-batch a step: the shape that bench/results compares with other programs.
constexpr const char* default_settings =
    "model: {preset: llama-30m}\n"
    "data:  {train: none, sequence: 512}\n"
    "batch: {tokens: 2048, micro: 4}\n"
    "steps: 100\n"
    "run:   {directory: none}\n";

struct Arguments {
  std::string file;
  std::vector<std::string> overrides;
  int64_t steps = 10;
  bool json = false;
};

/// The larger of the shares of the two limits, and which it is.
struct Share {
  double value;
  const char* limit;
};
Share share_of(const KernelTotal& total, const MachineLimits& limits) {
  const double products = total.operations / total.seconds * 1e-12 / limits.products;
  const double memory = total.bytes / total.seconds * 1e-9 / limits.bandwidth;
  return products > memory ? Share{products, "GEMM peak"} : Share{memory, "memory"};
}

void print_json(const StepMeasurement& m) {
  nlohmann::ordered_json kernels = nlohmann::ordered_json::array();
  for (const auto& [name, total] : m.kernels) {
    const Share share = share_of(total, m.limits);
    kernels.push_back({{"kernel", name},
                       {"calls", total.calls},
                       {"seconds", total.seconds},
                       {"bytes", total.bytes},
                       {"operations", total.operations},
                       {"share_of_limit", share.value},
                       {"limit", share.limit}});
  }
  const nlohmann::ordered_json answer = {
      {"threads", m.threads},
      {"gemm_library", m.gemm_library},
      {"gemm_peak_tflops", m.limits.products},
      {"memory_gb_per_second", m.limits.bandwidth},
      {"memory_foreseen_bytes", m.memory_foreseen},
      {"memory_peak_bytes", m.memory_peak},
      {"gpu_memory_bytes", m.gpu_memory},
      {"parameters", m.parameters},
      {"tokens", m.tokens},
      {"step_seconds", m.step},
      {"forward_backward_seconds", m.forward_backward},
      {"optimizer_seconds", m.optimizer},
      {"tokens_per_second", m.tokens_per_second()},
      {"tokens_per_second_without_optimizer", m.tokens_per_second_without_optimizer()},
      {"tflops", m.tokens_per_second() * m.operations * 1e-12},
      {"kernels", kernels}};
  fmt::print("{}\n", answer.dump(2));
}

void print_table(const StepMeasurement& m) {
  const auto rate = [&](double tokens_per_second) {
    const double tflops = tokens_per_second * m.operations * 1e-12;
    return fmt::format("{:.0f} tokens/s, {:.2f} TFLOP/s, {:.0f}% of the GEMM peak", tokens_per_second, tflops,
                       100 * tflops / m.limits.products);
  };
  fmt::print("machine               {} threads, {}; GEMM peak {:.2f} TFLOP/s, memory {:.1f} GB/s\n", m.threads,
             m.gemm_library, m.limits.products, m.limits.bandwidth);
  fmt::print("model                 {:.2f}M parameters, {} tokens a step\n", static_cast<double>(m.parameters) * 1e-6,
             m.tokens);
  fmt::print("memory                {} resident at its peak, {} foreseen\n", format_bytes(m.memory_peak),
             format_bytes(m.memory_foreseen));
  if (m.gpu_memory > 0) fmt::print("GPU memory            {}\n", format_bytes(m.gpu_memory));
  fmt::print("step                  {:.1f} ms: {}\n", m.step * 1e3, rate(m.tokens_per_second()));
  fmt::print("forward and backward  {:.1f} ms: {}\n", m.forward_backward * 1e3,
             rate(m.tokens_per_second_without_optimizer()));
  fmt::print("optimizer             {:.1f} ms, {:.0f}% of the step\n\n", m.optimizer * 1e3, 100 * m.optimizer / m.step);
  fmt::print("{:<34} {:>6} {:>8} {:>6} {:>8} {:>8}  {}\n", "kernel", "calls", "ms", "step", "GB/s", "TFLOP/s",
             "of its limit");
  double counted = 0;
  for (const auto& [name, total] : m.kernels) {
    const Share share = share_of(total, m.limits);
    fmt::print("{:<34} {:>6} {:>8.2f} {:>5.1f}% {:>8.1f} {:>8}  {:.0f}% of {}\n", name, total.calls,
               total.seconds * 1e3, 100 * total.seconds / m.step, total.bytes / total.seconds * 1e-9,
               total.operations > 0 ? fmt::format("{:.2f}", total.operations / total.seconds * 1e-12) : "",
               100 * share.value, share.limit);
    counted += total.seconds;
  }
  fmt::print("{:<34} {:>6} {:>8.2f} {:>5.1f}%\n", "between kernels", "", (m.step - counted) * 1e3,
             100 * (m.step - counted) / m.step);
}

void run_step(const Arguments& arguments) {
  const Settings settings = arguments.file.empty()
                                ? parse_settings(default_settings, "the default shape", arguments.overrides)
                                : load_settings(arguments.file, arguments.overrides);
  const StepMeasurement measurement = measure_step(settings, arguments.steps);
  if (arguments.json) print_json(measurement);
  else print_table(measurement);
}

}  // namespace

void add_bench_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("bench", "Measure what this machine reaches");
  command->require_subcommand(1);
  CLI::App* step = command->add_subcommand("step", "A training step, kernel by kernel, beside the machine's limits");
  const auto arguments = std::make_shared<Arguments>();
  step->add_option("file", arguments->file,
                   "settings of a run, with model.vocab; default: llama-30m, 4 sequences of 512")
      ->type_name("FILE.yaml");
  step->add_option("--set", arguments->overrides, "a setting, over what the file says; may be given again")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->take_all();
  step->add_option("--steps", arguments->steps, "steps to measure")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  step->add_flag("--json", arguments->json, "one JSON object on standard output");
  step->callback([arguments] { run_step(*arguments); });
  add_allreduce_command(*command);
  add_kernels_command(*command);
  add_inputs_command(*command);
}

}  // namespace nibble
