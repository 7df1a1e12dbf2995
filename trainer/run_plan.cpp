#include "trainer/run_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <numeric>

#include "comm/local_world.hpp"
#include "comm/thread_communicator.hpp"
#include "optim/whole_matrices.hpp"
#include "tensor/cuda/stream_memory.hpp"
#include "tensor/error.hpp"
#include "tensor/imagined_device.hpp"
#include "trainer/exchange_measurement.hpp"
#include "trainer/gpu_estimate.hpp"
#include "trainer/gradient_exchange.hpp"
#include "trainer/machine_facts.hpp"
#include "trainer/make_optimizer.hpp"
#include "trainer/precision.hpp"
#include "trainer/presets.hpp"
#include "trainer/rank_agreement.hpp"
#include "trainer/resolve.hpp"
#include "trainer/run_directory.hpp"
#include "trainer/run_stream.hpp"
#include "trainer/step_measurement.hpp"
#include "trainer/weight_gather.hpp"

namespace nibble {
namespace {

/// What this program takes before it has parts, with the token files, which a run maps.
size_t resident_before_parts(const Settings& settings) {
  size_t bytes = resident_memory().all;
  for (const std::string& path : {settings.data.train, settings.data.validation}) {
    std::error_code failure;
    const std::uintmax_t size = std::filesystem::file_size(path, failure);
    if (!failure) bytes += size;
  }
  return bytes;
}

AvailableMemory memory_of_a_rank(const World& world) {
  AvailableMemory most = available_memory();
  most.bytes += resident_memory().anonymous;
  if (world.local_size() > 1) {
    most.bytes /= static_cast<size_t>(world.local_size());
    most.limit += fmt::format(", shared by {} ranks", world.local_size());
  }
  return most;
}

/// Shampoo's roots and SOAP's bases are made so often, so that a burst shows what steps take with and without.
constexpr int64_t renewal_in_burst = 2;

/// A run of one rank that has this shape and so many micro-batches a step.
Settings burst_settings(Settings settings, const ModelConfig& config, int64_t micro_batches) {
  ModelSettings& model = settings.model;
  model.from.clear();
  model.preset = "none";
  model.width = config.width;
  model.layers = config.layers;
  model.heads = config.heads;
  model.kv_heads = config.kv_heads;
  model.head_dim = config.head_dim;
  model.ffn = config.ffn;
  model.vocab = config.vocabulary;
  model.context = config.context;
  model.tied = config.tied;
  model.qk_norm = config.qk_norm;
  settings.shard = "none";
  settings.optimizer.shampoo.every = settings.optimizer.soap.every = renewal_in_burst;
  settings.gradients = {};
  settings.batch.lanes = 1;
  settings.batch.tokens = micro_batches * settings.batch.micro * settings.data.sequence;
  return settings;
}

struct ComputeSeconds {
  double turn = 0;
  double optimizer = 0;  ///< norm and update of all parameters, without
  double matrices = 0;   ///< directions of those that one rank has whole
  std::string trouble{};
};

struct MatrixSeconds {
  double of_run = 0;  ///< in a step of the run, in the mean
  double of_burst = 0;
};

MatrixSeconds matrix_seconds(const StepMeasurement& burst, const OptimizerSettings& optimizer) {
  MatrixSeconds seconds;
  // A step in `renewal_in_burst` of the burst renews roots or bases, one in `every` of the run.
  const auto add = [&](const std::string& kernel, double steps_of_run, double steps_of_burst) {
    for (const auto& [name, per_step] : burst.kernels) {
      if (name != kernel) continue;
      seconds.of_run += per_step.seconds * steps_of_run / steps_of_burst;
      seconds.of_burst += per_step.seconds;
    }
  };
  constexpr double renewing = 1.0 / renewal_in_burst;
  const auto add_renewing = [&](const std::string& plain, const std::string& renewal, int64_t every) {
    const double of_run = 1.0 / static_cast<double>(every);
    add(plain, 1 - of_run, 1 - renewing);
    add(renewal, of_run, renewing);
  };
  add("newton_schulz", 1, 1);
  add_renewing("shampoo", "shampoo_with_new_roots", optimizer.shampoo.every);
  add_renewing("soap", "soap_with_new_basis", optimizer.soap.every);
  return seconds;
}

/// What the slowest rank takes while all of them compute.
ComputeSeconds measure_compute(World& world, const Settings& settings, const ModelConfig& config, int64_t turns) {
  constexpr int64_t steps = 2 * renewal_in_burst;
  // With a second micro-batch, which is added to the first, if the run has one.
  const int64_t micro_batches = std::min<int64_t>(turns, 2);
  std::vector<double> seconds(4);
  std::string trouble;
  gather_all(world, "");  // together
  try {
    const StepMeasurement burst =
        measure_step(burst_settings(settings, config, micro_batches), steps, !world.is_first());
    const auto& [matrices, in_burst] = matrix_seconds(burst, settings.optimizer);
    seconds = {burst.forward_backward / static_cast<double>(micro_batches), std::max(burst.optimizer - in_burst, 0.0),
               matrices, 0};
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::resource) throw;
    trouble = error.detail().what + ": " + error.detail().seen;
    seconds.back() = 1;
  }
  seconds = largest_of_all(world, seconds);
  if (seconds.back() > 0) return {.trouble = trouble.empty() ? "another rank has no memory for it" : trouble};
  return {.turn = seconds[0], .optimizer = seconds[1], .matrices = seconds[2]};
}

/// Whether no core is left for the communication thread. Ranks that may use all cores of a host share them.
bool all_cores_compute(const World& world, const Settings& settings) {
  const Stream stream(static_cast<int>(settings.run.threads));
  const MachineFacts machine = machine_facts(stream, settings.run.directory);
  const bool shared = std::ssize(machine.cores) == machine.host_cores;
  return machine.threads * (shared ? world.local_size() : 1) >= std::ssize(machine.cores);
}

/// The part of all parameters that a rank updates.
double share_of(const ShardPlan& plan, int64_t parameters) {
  if (plan.shard() == Shard::none) return 1;
  int64_t own = 0;
  for (const Run& run : plan.partition().runs(plan.rank())) own += run.count;
  return static_cast<double>(own) / static_cast<double>(parameters);
}

/// Of the work with whole matrices, that of the rank that has most.
double largest_share(std::span<const MatrixWork> matrices, int ranks) {
  std::vector<double> operations, of_rank;
  for (const MatrixWork& matrix : matrices) operations.push_back(matrix.operations);
  for (const std::vector<int>& own : matrix_shares(operations, ranks)) {
    double& sum = of_rank.emplace_back(0);
    for (const int matrix : own) sum += operations[static_cast<size_t>(matrix)];
  }
  const double all = std::accumulate(operations.begin(), operations.end(), 0.0);
  return all > 0 ? std::ranges::max(of_rank) / all : 0;
}

/// Of a vector that fits the caches of no core, as the gradients of a model do not.
constexpr int64_t most_measured_values = int64_t{1} << 20;

/// Ranks that are played cost no time on links, so only bytes and the processor's time count.
void measure_exchanges(const Settings& settings, RunPlan& plan) {
  plan.played_ranks = std::min(plan.ranks, most_played_ranks);
  const int64_t values = std::min(plan.parameters, most_measured_values);
  const LinkCost link{
      .latency = plan.speed.latency,
      .per_byte = plan.speed.gathered_bytes_per_second > 0 ? 1 / plan.speed.gathered_bytes_per_second : 0};
  std::vector<ComparedSum> sums;
  for (const char* name : {"dense-bf16", "top-0.78%", "maxmin-8", "maxmin-4", "eden-4", "eden-1", "correlated-1"})
    sums.push_back(compared_sum(name, plan.played_ranks, values, link));
  if (compresses(settings.gradients)) {
    Settings alone = settings;
    alone.gradients.hierarchical = false;
    sums.push_back({.name = "this run's", .make = bucket_sum_maker(alone, {.steps = 1, .host = {}, .link = link})});
  }
  run_on_threads(make_thread_communicators(plan.played_ranks), [&](Communicator& ranks) {
    std::vector<SumMeasurement> measured = compare_sums(ranks, sums, {.elements = values, .repeats = 3});
    if (ranks.rank() == 0) plan.exchanges = std::move(measured);
  });
  const double factor = static_cast<double>(plan.parameters) / static_cast<double>(values);
  for (SumMeasurement& sum : plan.exchanges) {
    sum.bytes *= factor;
    sum.processor_seconds *= factor;
  }
}

}  // namespace

ModelConfig shape_of(const Settings& settings) {
  if (!settings.model.from.empty()) {
    const ModelSource source = find_model(settings.model.from);
    ModelConfig config = source.checkpoint ? source.checkpoint->header().model : read_huggingface_config(source.path);
    config.context = std::max(config.context, settings.data.sequence);
    return config;
  }
  const Preset* preset = find_preset(settings.model.preset);
  const bool known = settings.model.vocab > 0 || (preset && preset->vocabulary > 0);
  return model_config(settings, known ? 0 : tokenizer_of_data(settings).vocabulary);
}

ComputeTime measure_compute_alone(const Settings& settings, const ModelConfig& config) {
  const StepMeasurement burst = measure_step(burst_settings(settings, config, 1), renewal_in_burst, true);
  const auto& [matrices, in_burst] = matrix_seconds(burst, settings.optimizer);
  return {.micro_batch = burst.forward_backward, .update = std::max(burst.optimizer - in_burst, 0.0) + matrices};
}

namespace {

/// What the parts of the run are foreseen on.
struct Imagined {
  std::optional<ImaginedDevice> device{};
  std::optional<Stream> stream{};
};

void require_gpu() {
  if (cuda::available() && !cuda::devices().empty()) return;
  throw Error({.kind = ErrorKind::resource,
               .what = "there is no GPU to plan for",
               .where = "run.device: cuda",
               .seen = cuda::available() ? "the driver finds none" : "this program was built without CUDA",
               .allowed = "a GPU, or the name of one",
               .next = "name one: --gpu h100"});
}

/// Fills in what a rank can take.
void imagine(const World& world, const Settings& settings, const PlanOptions& options, RunPlan& plan,
             Imagined& imagined) {
  const auto threads = static_cast<int>(settings.run.threads);
  if (!on_gpu(settings)) {
    if (options.gpu)
      throw Error({.kind = ErrorKind::configuration,
                   .what = "a GPU is named, and the run is on processors",
                   .where = "--gpu, run.device",
                   .seen = fmt::format("{}, {}", options.gpu->name, settings.run.device),
                   .allowed = "run.device: cuda",
                   .next = "add --set run.device=cuda"});
    plan.most = options.memory ? AvailableMemory{*options.memory, "--memory"} : memory_of_a_rank(world);
    imagined.stream.emplace(threads);
    return;
  }
  int architecture = 0;
  if (options.gpu && settings.run.gpu_attention != "own")
    throw Error({.kind = ErrorKind::configuration,
                 .what = "cuDNN tells what it works in where the GPU is",
                 .where = "--gpu, run.gpu_attention",
                 .seen = fmt::format("{}, {}", options.gpu->name, settings.run.gpu_attention),
                 .allowed = "run.gpu_attention: own",
                 .next = "add --set run.gpu_attention=own"});
  if (options.gpu) {
    constexpr double gigabyte = 1e9;
    architecture = options.gpu->architecture;
    plan.most = {std::numeric_limits<size_t>::max(), "another machine's"};
    plan.most_gpu = {static_cast<size_t>(options.gpu->memory * gigabyte),
                     fmt::format("the datasheet of {}", options.gpu->name)};
  } else {
    require_gpu();
    const Stream there = run_stream(settings, world);
    architecture = there.memory().architecture();
    plan.most = memory_of_a_rank(world);
    plan.most_gpu = available_gpu_memory(world);
  }
  if (options.memory) plan.most_gpu = {*options.memory, "--memory"};
  imagined.device.emplace(architecture);
  imagined.stream.emplace(threads, Place::device);
}

}  // namespace

RunPlan make_plan(World& world, const Settings& settings, const PlanOptions& options) {
  const size_t resident = resident_before_parts(settings);
  RunPlan plan;
  plan.ranks = options.ranks;
  plan.shard = settings.shard;
  plan.tokens = settings.batch.tokens;
  const ModelConfig config = shape_of(settings);
  plan.parameters = config.parameters();

  const ParameterLayout layout(config, std::ranges::any_of(recipes_of(settings.precision), &Recipe::learns));
  const Precision precision = precision_of(settings, foreseen_steps(settings), config.layers);
  const ShardPlan shards(layout, shard_of(settings), 0, options.ranks,
                         settings.batch.tokens / (settings.data.sequence * settings.batch.micro), settings.batch.lanes,
                         gathers_codes(settings) ? code_bits(layout, precision) : CodeBits());
  const std::vector<MatrixWork> matrices = whole_matrices(settings.optimizer, layout.parameters());
  ComputeSeconds compute;
  {
    Imagined here;
    imagine(world, settings, options, plan, here);
    const std::unique_ptr<World> imagined = make_local_world(make_imagined_communicator(0, options.ranks));
    plan.memory = foresee_memory(*here.stream, *imagined, settings, config, resident);
    constexpr MemoryLimits nothing_fits{};  // all candidates
    plan.candidates = smaller_settings(*here.stream, *imagined, settings, config, resident, nothing_fits, false);
    if (plan.estimate = options.gpu; plan.estimate) {
      const GpuEstimate estimate =
          estimate_step(*here.stream, settings, config, precision, plan.memory, matrices, *options.gpu);
      compute = {.turn = estimate.turn,
                 .optimizer = estimate.optimizer / share_of(shards, plan.parameters),
                 .matrices = estimate.matrices};
    }
  }

  world.at(0, "plan: a step's passes");
  if (!plan.estimate) compute = measure_compute(world, settings, config, shards.turns());
  plan.no_compute = compute.trouble;
  world.at(0, "plan: exchange");
  const LlamaOptions llama = llama_options(settings);
  const Wire wire = wire_of(settings);
  const bool measures = world.size() > 1 && !on_gpu(settings);  // GPUs have links of their own
  if (options.ranks > 1) {
    plan.speed_is = options.speed ? RunPlan::Speed::given
                    : measures    ? RunPlan::Speed::measured
                                  : RunPlan::Speed::unknown;
    plan.speed = options.speed ? *options.speed : measures ? measure_exchange(world, wire) : ExchangeSpeed();
    if (on_gpu(settings) || !all_cores_compute(world, settings)) plan.speed.core_share = 0;
  }
  std::optional<ValueCost> compressed;
  if (options.ranks > 1 && world.is_first()) measure_exchanges(settings, plan);
  if (compresses(settings.gradients) && !plan.exchanges.empty()) {
    const SumMeasurement& own = plan.exchanges.back();
    const auto values = static_cast<double>(plan.parameters);
    compressed = {.bytes = own.bytes / values, .processor_seconds = own.processor_seconds / values};
  }
  plan.step = forecast_step(layout, shards,
                            {.config = config,
                             .length = settings.data.sequence,
                             .recompute = llama.recompute,
                             .operands = operands_of(settings),
                             .z_loss = settings.loss.z_loss > 0,
                             .statistics = plan.memory.statistics,
                             .wire = wire,
                             .compressed = compressed,
                             .matrices = matrices,
                             .turn_seconds = compute.turn,
                             .optimizer_seconds = compute.optimizer * share_of(shards, plan.parameters) +
                                                  compute.matrices * largest_share(matrices, options.ranks),
                             .speed = plan.speed});
  return plan;
}

}  // namespace nibble
