#include "trainer/run_memory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <optional>
#include <utility>

#include "comm/collectives.hpp"
#include "data/prefetcher.hpp"
#include "tensor/cuda/cublaslt.hpp"
#include "tensor/error.hpp"
#include "tensor/imagined_device.hpp"
#include "tensor/staging.hpp"
#include "trainer/gradient_exchange.hpp"
#include "trainer/make_optimizer.hpp"
#include "trainer/rank_agreement.hpp"
#include "trainer/resolve.hpp"
#include "trainer/run_stream.hpp"
#include "trainer/state_on_host.hpp"

namespace nibble {
namespace {

/// Memory that comes while a run works and that is no part's own: compiled GEMM kernels, HDF5's caches, stacks of
/// threads and the quantizers' tiles, the pages of code that a step reaches. Measured together with the GEMM's scratch:
/// 11 MiB (30M parameters) to 19 (0.5B) with AVX-512, 40 with AVX2.
constexpr size_t working_program = size_t{24} << 20;

/// Those that are ready, the one that is being made and the one that is trained on.
size_t batch_bytes(const Settings& settings) {
  constexpr int64_t arrays = 3;  // inputs, targets, document starts
  return bytes_of(DType::i32, settings.batch.tokens, arrays * (static_cast<int64_t>(Prefetcher::default_depth) + 2));
}

size_t file_bytes(const std::string& path) {
  std::error_code failure;
  const std::uintmax_t size = path.empty() ? 0 : std::filesystem::file_size(path, failure);
  return failure ? 0 : size;
}

/// Settings that take less memory.
struct Remedy {
  std::string change;
  std::function<void(Settings& settings)> apply;
  bool identity = false;  ///< a resumed run cannot have another value
};

/// Levels of optimizer.offload that the optimizer can have.
std::vector<const char*> offload_levels(const Settings& settings) {
  const OptimizerSettings& optimizer = settings.optimizer;
  const auto passes = [](const std::string& name) { return !takes_matrices(name) || orthogonalizes(name); };
  const bool all_pass = passes(optimizer.name) && std::ranges::all_of(optimizer.groups, passes, &OptimizerGroup::name);
  if (!on_gpu(settings) || !all_pass) return {};
  if (optimizer.qk_clip > 0 || settings.precision.cage.strength > 0) return {"moments"};
  return {"moments", "masters"};
}

std::vector<Remedy> remedies(const Settings& of, int ranks) {
  std::vector<Remedy> list;
  if (ranks > 1)
    for (const char* level : {"optimizer", "gradients", "parameters"})
      list.push_back({fmt::format("shard={}", level), [level](Settings& settings) { settings.shard = level; }});
  for (const char* level : offload_levels(of))
    list.push_back({fmt::format("optimizer.offload={}", level),
                    [level](Settings& settings) { settings.optimizer.offload = level; }});
  list.push_back(
      {"run.checkpoint.background=false", [](Settings& settings) { settings.run.checkpoint.background = false; }});
  list.push_back({"model.recompute=block", [](Settings& settings) { settings.model.recompute = "block"; }});
  // The fewest lanes are one for each rank.
  const std::string lanes = fmt::format("batch.lanes={}", ranks);
  list.push_back({lanes, [ranks](Settings& settings) { settings.batch.lanes = ranks; }, true});
  // More micro-batches can fill more lanes, and each of these has a gradient.
  list.push_back({"batch.micro=1 and " + lanes,
                  [ranks](Settings& settings) {
                    settings.batch.micro = 1;
                    settings.batch.lanes = ranks;
                  },
                  true});
  return list;
}

/// `of` the candidates' bytes.
std::string advice(const std::vector<MemoryCandidate>& candidates, size_t MemoryCandidate::*of,
                   const MemoryLimits& most, const char* otherwise) {
  std::string text;
  for (const MemoryCandidate& candidate : candidates)
    text += fmt::format("{}{} takes {}", text.empty() ? "" : "; with ", candidate.change, format_bytes(candidate.*of));
  if (!candidates.empty() && most.hold(candidates.back())) return text;
  return text + (text.empty() ? "" : "; ") + otherwise;
}

/// Memory that comes while a run works on a GPU, at most; of the host as much pinned as the GPU has of staging.
void add_working_memory(const RunParts& parts, const Stream& stream, World& world, const Settings& settings,
                        RunMemory& memory) {
  constexpr size_t streams = 2;  // the run's and that of messages
  memory.gpu["numbers of a stream"] *= streams;
  memory.gpu["working memory of the GEMM library"] = cuda::library_bytes;
  // Sums of blocks, which are staged together, are the largest of what is, but for the tokens of large micro-batches.
  const Partition& partition = parts.step->plan().partition();
  const auto blocks = parts.step->plan().shard() == Shard::none ? static_cast<size_t>(partition.blocks())
                                                                : partition.blocks_of(world.rank()).size();
  const size_t staged = 2 * std::max({Staging::least_half, blocks * sizeof(double),
                                      bytes_of(DType::i32, settings.batch.micro, settings.data.sequence)});
  memory.gpu["staging"] = memory.table["staging"] = staged;
  const ParameterLayout& layout = parts.model->layout();
  size_t of_kernels =
      parts.model->gemm_scratch_bytes() + optimizer_scratch_bytes(stream, settings.optimizer, layout.parameters());
  if (settings.run.operands.every > 0) {  // as they are multiplied, and as they would be without rounding
    int64_t largest = 0;
    for (const BufferInfo& info : layout.buffers())
      if (!is_vector(info.kind))
        largest = std::max({largest, info.rows * info.cols, parts.model->tokens() * std::max(info.rows, info.cols)});
    memory.gpu["observed operands"] = bytes_of(DType::f32, 1, largest);
    of_kernels += bytes_of(DType::f32, 1, largest);
  }
  memory.gpu["working memory of kernels"] = of_kernels;
}

}  // namespace

int64_t foreseen_steps(const Settings& settings) {
  constexpr int64_t many = 1000000;
  return settings.epochs > 0 ? many : resolve_steps(settings, 0);
}

RunMemory foresee_memory(Stream& given, World& world, const Settings& settings, const ModelConfig& config,
                         size_t resident, const LinkCost& link) {
  const MemoryTable before = held_memory(), before_on_gpu = held_memory(Place::device);
  std::optional<ImaginedDevice> imagined;
  std::optional<Stream> there;
  if (given.on_device()) {
    imagined.emplace(given.memory().architecture());
    there.emplace(given.threads(), Place::device);
  }
  Stream& stream = there ? *there : given;
  const RunParts parts = make_run_parts(stream, world, settings, config, foreseen_steps(settings),
                                        exchange_maker(settings, {.host = host_numbers(world), .link = link}));
  StateList state;
  RunCounters counters;
  parts.step->state(state);
  counters.state(state);
  const StateOnHost on_host(state);
  const CheckpointSaver saver(saver_options(world, settings), on_host.list());
  RunMemory memory{.table = held_memory_since(before),
                   .gpu = held_memory_since(before_on_gpu, Place::device),
                   .statistics = std::ssize(parts.model->statistics()),
                   .token_files = file_bytes(settings.data.train) + file_bytes(settings.data.validation)};
  memory.table["batches"] = batch_bytes(settings);
  memory.table["program and libraries"] = resident - std::min(resident, memory.token_files) + working_program;
  // A rank that is alone gathers its weights, too, and sums.
  if (world.size() > 1 || parts.step->plan().shard() != Shard::none || compresses(settings.gradients)) {
    const size_t staging = collective_staging_bytes(world.size(), stream.place());
    memory.table["communication"] += staging;  // messages of a GPU may go through the host
    if (stream.on_device()) memory.gpu["communication"] += staging;
  }
  const size_t decomposed = decomposition_bytes(stream, settings.optimizer, parts.model->layout().parameters());
  if (stream.on_device()) {
    if (decomposed > 0) memory.table["matrix updates"] += decomposed;
    add_working_memory(parts, stream, world, settings, memory);
    return memory;
  }
  memory.table["GEMM scratch"] =
      parts.model->gemm_scratch_bytes() +
      optimizer_scratch_bytes(stream, settings.optimizer, parts.model->layout().parameters()) + decomposed;
  return memory;
}

std::vector<MemoryCandidate> smaller_settings(Stream& stream, World& world, const Settings& settings,
                                              const ModelConfig& config, size_t resident, const MemoryLimits& most,
                                              bool resumed, const LinkCost& link) {
  Settings kept = settings;
  RunMemory needed = foresee_memory(stream, world, settings, config, resident, link);
  const auto helps = [&](const RunMemory& less) {
    const size_t gpu = total(less.gpu), before = total(needed.gpu);
    const bool less_of_host = total(less.table) < total(needed.table);
    return before > most.gpu ? gpu < before || (gpu == before && less_of_host) : less_of_host && gpu <= most.gpu;
  };
  std::vector<MemoryCandidate> candidates;
  for (const Remedy& remedy : remedies(settings, world.size())) {
    if (resumed && remedy.identity) continue;
    Settings smaller = kept;
    remedy.apply(smaller);
    RunMemory less = foresee_memory(stream, world, smaller, config, resident, link);
    if (!helps(less)) continue;
    candidates.push_back({remedy.change, total(less.table), total(less.gpu)});
    if (most.hold(less)) break;
    needed = std::move(less);
    kept = smaller;
  }
  return candidates;
}

AvailableMemory available_gpu_memory(const World& world) {
  const std::vector<cuda::DeviceFacts> gpus = cuda::devices();
  const int own = gpu_of(world);
  const cuda::DeviceFacts& facts = gpus[static_cast<size_t>(own)];
  const size_t here = gpus.size(), sharing = (static_cast<size_t>(world.local_size()) + here - 1) / here;
  return {
      (facts.free + total(held_memory(Place::device))) / sharing,
      fmt::format("device {}: {}{}", own, facts.name, sharing > 1 ? fmt::format(", shared by {} ranks", sharing) : "")};
}

RunMemory require_memory(Stream& stream, World& world, const Settings& settings, const ModelConfig& config,
                         size_t resident, const AvailableMemory& most, bool resumed, const LinkCost& link) {
  // Building the parts writes the table of rotations and a list of micro-batches, which takes less than the batches.
  const MemoryTable first = {{"batches", batch_bytes(settings)},
                             {"RoPE table", bytes_of(DType::f32, settings.data.sequence, config.head_dim)}};
  require_fits("the run", first, most, [] { return "lower batch.tokens or data.sequence"; });

  const RunMemory memory = foresee_memory(stream, world, settings, config, resident, link);
  AvailableMemory gpu;
  if (stream.on_device()) {
    gather_all(world, "");  // of ranks that share a GPU none takes memory while another one asks what is left
    gpu = available_gpu_memory(world);
    gather_all(world, "");
  }
  const MemoryLimits limits{most.bytes, gpu.bytes};
  const auto next = [&](size_t MemoryCandidate::*of, const char* otherwise) {
    return advice(smaller_settings(stream, world, settings, config, resident, limits, resumed, link), of, limits,
                  otherwise);
  };
  if (stream.on_device())
    require_fits("the run on the GPU", memory.gpu, gpu,
                 [&] { return next(&MemoryCandidate::gpu, "choose a smaller model, or end what else fills the GPU"); });
  require_fits("the run", memory.table, most, [&] {
    return next(&MemoryCandidate::bytes, "choose a smaller model, or end what else fills the memory");
  });
  return memory;
}

namespace {

std::string text_of(const MemoryRows& rows, const std::string& line_break) {
  size_t widest = 0;
  for (const auto& row : rows) widest = std::max(widest, row.first.size());
  std::string text;
  for (const auto& [purpose, bytes] : rows)
    text += fmt::format("{}{:<{}}  {:>10}", text.empty() ? "" : line_break, purpose, widest, format_bytes(bytes));
  return text;
}

}  // namespace

std::string memory_text(const RunMemory& memory, const std::string& line_break) {
  MemoryRows rows = largest_first(memory.table);
  rows.emplace_back("token files, mapped", memory.token_files);
  rows.emplace_back("at its peak", memory.peak());
  return text_of(rows, line_break);
}

std::string gpu_memory_text(const RunMemory& memory, const std::string& line_break) {
  MemoryRows rows = largest_first(memory.gpu);
  rows.emplace_back("together", total(memory.gpu));
  return text_of(rows, line_break);
}

}  // namespace nibble
