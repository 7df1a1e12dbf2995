#include "trainer/run_memory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "comm/collectives.hpp"
#include "data/prefetcher.hpp"
#include "tensor/error.hpp"
#include "tensor/gemm.hpp"

namespace nibble {
namespace {

/// Memory that comes while a run works and that is no part's own: compiled GEMM kernels, HDF5's caches, stacks of
/// threads, the pages of code that a step reaches. Measured together with the GEMM's scratch: 11 MiB (30M parameters)
/// to 19 (0.5B) with AVX-512, 40 with AVX2.
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
  const char* text;
  void (*apply)(Settings& settings);
  bool identity;  ///< a resumed run cannot have another value
};
constexpr Remedy remedies[] = {
    {"run.checkpoint.background=false", [](Settings& settings) { settings.run.checkpoint.background = false; }, false},
    {"model.recompute=block", [](Settings& settings) { settings.model.recompute = "block"; }, false},
    {"batch.lanes=1", [](Settings& settings) { settings.batch.lanes = 1; }, true},
    // More micro-batches can fill more lanes, and each of these has a gradient.
    {"batch.micro=1 and batch.lanes=1", [](Settings& settings) { settings.batch.micro = settings.batch.lanes = 1; },
     true},
};

/// What the settings take as each remedy is added to those before, until they fit.
template <class Foresee>
std::string advice(Settings settings, size_t needed, size_t most, bool resumed, Foresee&& foresee) {
  std::string text;
  for (const Remedy& remedy : remedies) {
    if (resumed && remedy.identity) continue;
    Settings smaller = settings;
    remedy.apply(smaller);
    const size_t less = total(foresee(smaller).table);
    if (less >= needed) continue;
    text += fmt::format("{}{} takes {}", text.empty() ? "" : "; with ", remedy.text, format_bytes(less));
    if (less <= most) return text;
    needed = less;
    settings = smaller;
  }
  return text + (text.empty() ? "" : "; ") + "choose a smaller model, or end what else fills the memory";
}

}  // namespace

RunMemory foresee_memory(Stream& stream, World& world, const Settings& settings, const ModelConfig& config,
                         size_t resident) {
  constexpr int64_t any_steps = 1;
  const MemoryTable before = held_memory();
  const RunParts parts = make_run_parts(stream, world, settings, config, any_steps, exchange_maker(settings));
  StateList state;
  RunCounters counters;
  parts.step->state(state);
  counters.state(state);
  const CheckpointSaver saver(saver_options(world, settings), state);
  RunMemory memory{held_memory_since(before), file_bytes(settings.data.train) + file_bytes(settings.data.validation)};
  memory.table["batches"] = batch_bytes(settings);
  memory.table["program and libraries"] = resident - std::min(resident, memory.token_files) + working_program;
  if (world.size() > 1) memory.table["communication"] = collective_staging_bytes(world.size());
  memory.table["GEMM scratch"] = parts.model->gemm_scratch_bytes();
  return memory;
}

RunMemory require_memory(Stream& stream, World& world, const Settings& settings, const ModelConfig& config,
                         size_t resident, const AvailableMemory& most, bool resumed) {
  // Building the parts writes the table of rotations and a list of micro-batches, which takes less than the batches.
  const MemoryTable first = {{"batches", batch_bytes(settings)},
                             {"RoPE table", bytes_of(DType::f32, settings.data.sequence, config.head_dim)}};
  require_fits("the run", first, most, [] { return "lower batch.tokens or data.sequence"; });

  const auto foresee = [&](const Settings& changed) {
    return foresee_memory(stream, world, changed, config, resident);
  };
  RunMemory memory = foresee(settings);
  require_fits("the run", memory.table, most,
               [&] { return advice(settings, total(memory.table), most.bytes, resumed, foresee); });
  return memory;
}

std::string memory_text(const RunMemory& memory, const std::string& line_break) {
  MemoryRows rows = largest_first(memory.table);
  rows.emplace_back("token files, mapped", memory.token_files);
  rows.emplace_back("at its peak", memory.peak());
  size_t widest = 0;
  for (const auto& row : rows) widest = std::max(widest, row.first.size());
  std::string text;
  for (const auto& [purpose, bytes] : rows)
    text += fmt::format("{}{:<{}}  {:>10}", text.empty() ? "" : line_break, purpose, widest, format_bytes(bytes));
  return text;
}

}  // namespace nibble
