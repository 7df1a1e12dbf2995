#include "trainer/run_memory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>

#include "comm/collectives.hpp"
#include "data/prefetcher.hpp"
#include "tensor/error.hpp"
#include "tensor/gemm.hpp"
#include "trainer/gradient_exchange.hpp"
#include "trainer/make_optimizer.hpp"
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
  bool on_gpu = true;     ///< takes less memory there
};

std::vector<Remedy> remedies(int ranks) {
  std::vector<Remedy> list;
  if (ranks > 1)
    for (const char* level : {"optimizer", "gradients", "parameters"})
      list.push_back({fmt::format("shard={}", level), [level](Settings& settings) { settings.shard = level; }});
  list.push_back({.change = "run.checkpoint.background=false",
                  .apply = [](Settings& settings) { settings.run.checkpoint.background = false; },
                  .on_gpu = false});
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

std::string advice(const std::vector<MemoryCandidate>& candidates, size_t most) {
  std::string text;
  for (const auto& [change, bytes] : candidates)
    text += fmt::format("{}{} takes {}", text.empty() ? "" : "; with ", change, format_bytes(bytes));
  if (!candidates.empty() && candidates.back().bytes <= most) return text;
  return text + (text.empty() ? "" : "; ") + "choose a smaller model, or end what else fills the memory";
}

}  // namespace

int64_t foreseen_steps(const Settings& settings) {
  constexpr int64_t many = 1000000;
  return settings.epochs > 0 ? many : resolve_steps(settings, 0);
}

RunMemory foresee_memory(Stream& stream, World& world, const Settings& settings, const ModelConfig& config,
                         size_t resident) {
  const MemoryTable before = held_memory(), before_on_gpu = held_memory(Place::device);
  const RunParts parts = make_run_parts(stream, world, settings, config, foreseen_steps(settings),
                                        exchange_maker(settings, {.host = host_numbers(world)}));
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
  if (world.size() > 1) {
    const size_t staging = collective_staging_bytes(world.size(), stream.place());
    memory.table["communication"] += staging;  // messages of a GPU may go through the host
    if (stream.on_device()) memory.gpu["communication"] += staging;
  }
  (stream.on_device() ? memory.gpu : memory.table)["GEMM scratch"] =
      parts.model->gemm_scratch_bytes() +
      optimizer_scratch_bytes(stream, settings.optimizer, parts.model->layout().parameters());
  const size_t decomposed = decomposition_bytes(stream, settings.optimizer, parts.model->layout().parameters());
  if (decomposed > 0) memory.table[stream.on_device() ? "matrix updates" : "GEMM scratch"] += decomposed;
  return memory;
}

std::vector<MemoryCandidate> smaller_settings(Stream& stream, World& world, const Settings& settings,
                                              const ModelConfig& config, size_t resident, size_t most, bool resumed) {
  Settings kept = settings;
  size_t needed = total(foresee_memory(stream, world, settings, config, resident).table);
  std::vector<MemoryCandidate> candidates;
  for (const Remedy& remedy : remedies(world.size())) {
    if (resumed && remedy.identity) continue;
    Settings smaller = kept;
    remedy.apply(smaller);
    const size_t less = total(foresee_memory(stream, world, smaller, config, resident).table);
    if (less >= needed) continue;
    candidates.push_back({remedy.change, less});
    if (less <= most) break;
    needed = less;
    kept = smaller;
  }
  return candidates;
}

namespace {

/// The parts were there for a moment; what products take comes to it, of which the stream may hold some already.
void require_free(const RunMemory& memory, int device) {
  const size_t free = cuda::devices()[static_cast<size_t>(device)].free + total(held_memory(Place::device));
  if (total(memory.gpu) > free)
    throw Error({.kind = ErrorKind::resource,
                 .what = "too little of it is free",
                 .seen = format_bytes(total(memory.gpu)),
                 .allowed = format_bytes(free)});
}

/// Of remedies, one after the other added to those before, those with which the parts fit into the GPU; empty: none.
std::string fitting_on_gpu(Stream& stream, World& world, const Settings& settings, const ModelConfig& config,
                           size_t resident, bool resumed) {
  Settings smaller = settings;
  std::string changes;
  for (const Remedy& remedy : remedies(world.size())) {
    if ((resumed && remedy.identity) || !remedy.on_gpu) continue;
    remedy.apply(smaller);
    changes += (changes.empty() ? "" : " and ") + remedy.change;
    try {
      require_free(foresee_memory(stream, world, smaller, config, resident), gpu_of(world));
      return changes;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::resource) throw;
    }
  }
  return {};
}

RunMemory foresee_or_advise(Stream& stream, World& world, const Settings& settings, const ModelConfig& config,
                            size_t resident, bool resumed) {
  try {
    RunMemory memory = foresee_memory(stream, world, settings, config, resident);
    if (stream.on_device()) require_free(memory, gpu_of(world));
    return memory;
  } catch (const Error& error) {
    if (!stream.on_device() || error.kind() != ErrorKind::resource) throw;
    ErrorDetail detail = error.detail();
    detail.what = "the run does not fit into the GPU's memory: " + detail.what;
    const std::string changes = fitting_on_gpu(stream, world, settings, config, resident, resumed);
    detail.next =
        changes.empty() ? "choose a smaller model, or end what else fills the GPU" : "with " + changes + " it fits";
    throw Error(detail);
  }
}

}  // namespace

RunMemory require_memory(Stream& stream, World& world, const Settings& settings, const ModelConfig& config,
                         size_t resident, const AvailableMemory& most, bool resumed) {
  // Building the parts writes the table of rotations and a list of micro-batches, which takes less than the batches.
  const MemoryTable first = {{"batches", batch_bytes(settings)},
                             {"RoPE table", bytes_of(DType::f32, settings.data.sequence, config.head_dim)}};
  require_fits("the run", first, most, [] { return "lower batch.tokens or data.sequence"; });

  RunMemory memory = foresee_or_advise(stream, world, settings, config, resident, resumed);
  require_fits("the run", memory.table, most, [&] {
    return advice(smaller_settings(stream, world, settings, config, resident, most.bytes, resumed), most.bytes);
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
