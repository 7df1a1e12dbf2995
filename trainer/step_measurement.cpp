#include "trainer/step_measurement.hpp"

#include <algorithm>
#include <optional>

#include "comm/local_world.hpp"
#include "tensor/convert.hpp"
#include "tensor/error.hpp"
#include "tensor/fill.hpp"
#include "tensor/gemm.hpp"
#include "tensor/random.hpp"
#include "trainer/gpu_diagnosis.hpp"
#include "trainer/gpu_ranks.hpp"
#include "trainer/gradient_exchange.hpp"
#include "trainer/memory.hpp"
#include "trainer/precision.hpp"
#include "trainer/progress.hpp"
#include "trainer/quantile.hpp"
#include "trainer/resolve.hpp"
#include "trainer/run_memory.hpp"
#include "trainer/run_parts.hpp"
#include "trainer/run_stream.hpp"
#include "trainer/stopwatch.hpp"

namespace nibble {
namespace {

Batch random_batch(int64_t tokens, int64_t length, int64_t vocabulary) {
  const RandomStream random(1, Purpose::sampling);
  Batch batch{.sequences = tokens / length,
              .length = length,
              .inputs = {},
              .targets = {},
              .document_starts = {},
              .loss_tokens = tokens};
  const auto id = [&](int64_t i) {
    return static_cast<int32_t>(random.word(static_cast<uint64_t>(i)) % static_cast<uint64_t>(vocabulary));
  };
  for (int64_t i = 0; i < tokens; ++i) {
    batch.inputs.push_back(id(2 * i));
    batch.targets.push_back(id(2 * i + 1));
  }
  return batch;
}

std::vector<StepMeasurement::Kernel> slowest_first(const Profile& profile, int64_t steps) {
  std::vector<StepMeasurement::Kernel> kernels;
  for (const auto& [name, total] : profile.totals()) {
    const auto n = static_cast<double>(steps);
    kernels.push_back({name, {total.calls / steps, total.seconds / n, total.bytes / n, total.operations / n}});
  }
  std::sort(kernels.begin(), kernels.end(),
            [](const auto& a, const auto& b) { return a.per_step.seconds > b.per_step.seconds; });
  return kernels;
}

}  // namespace

StepMeasurement measure_step(Settings settings, int64_t steps, bool silent) {
  settings.run.checkpoint.background = false;  // nothing is saved
  if (!settings.model.from.empty())
    throw Error({.kind = ErrorKind::configuration,
                 .what = "only a shape that the settings give can be measured",
                 .where = "model.from",
                 .seen = settings.model.from,
                 .next = "give the shape: --set model.from= --set model.preset=llama-30m, or its dimensions"});
  const std::unique_ptr<World> world = make_local_world();
  Stream stream = run_stream(settings, *world);
  std::optional<GpuRanks> gpus;
  if (stream.on_device()) gpus.emplace(*world, stream, settings.run.gpu_exchange, "");
  const ModelConfig config = model_config(settings, 0);
  const DType operands = operands_of(settings);
  const int64_t tokens = settings.batch.tokens, length = settings.data.sequence;
  StepMeasurement result{.threads = stream.threads(),
                         .gemm_library = gemm_library(stream, operands),
                         .parameters = config.parameters(),
                         .tokens = tokens,
                         .operations = config.flops_per_token(length),
                         .limits = {.bandwidth = copy_bandwidth(stream)},
                         .kernels = {}};
  const RunMemory memory =
      require_memory(stream, *world, settings, config, resident_memory().all, available_memory(), false);
  RunParts parts = make_run_parts(stream, *world, settings, config, steps + 1,
                                  exchange_maker(settings, {.host = host_numbers(*world)}));
  TrainStep& train_step = *parts.step;
  train_step.fill_masters(new_weights(stream, settings, *parts.model));

  const Batch batch = random_batch(tokens, length, config.vocabulary);
  WorkProgress progress("measured", "steps");
  Profile profile;
  std::vector<double> peaks, all, forward_backward, optimizer;
  train_step.run(0, batch);
  const auto profiled = [&](int64_t step) {
    stream.attach(&profile);
    const StepSeconds seconds = train_step.run(step, batch).seconds;
    stream.attach(nullptr);
    return seconds;
  };
  for (int64_t step = 1; step <= steps; ++step) {
    peaks.push_back(measure_gemm_peak(stream, operands));
    Stopwatch watch;
    // A GPU's kernels wait for each other while they are timed: that takes a step of its own.
    const StepSeconds seconds = stream.on_device() ? train_step.run(step, batch).seconds : profiled(step);
    all.push_back(watch.seconds());
    forward_backward.push_back(seconds.forward_backward);
    optimizer.push_back(seconds.optimizer);
    if (stream.on_device()) profiled(step);
    if (!silent) progress.update(step, steps);
  }
  result.memory_foreseen = memory.peak();
  result.gpu_memory = total(memory.gpu);
  result.memory_peak = resident_memory().peak;
  result.limits.products = median(peaks);
  result.step = median(all);
  result.forward_backward = median(forward_backward);
  result.optimizer = median(optimizer);
  result.kernels = slowest_first(profile, steps);
  return result;
}

}  // namespace nibble
