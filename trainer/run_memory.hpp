// What a rank of a run is going to take of its machine's memory, by purpose, and the refusal of one that cannot fit.
//
// Linux gives addresses without memory behind them and kills a process that then touches too many of them; so a run is
// weighed when its settings are known, before its first page is touched.
// Not for: what the machine has (trainer/memory.hpp).
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "comm/exchange_cost.hpp"
#include "tensor/memory.hpp"
#include "trainer/memory.hpp"
#include "trainer/run_parts.hpp"
#include "trainer/settings.hpp"

namespace nibble {

/// A run's memory when it is largest.
struct RunMemory {
  MemoryTable table;
  MemoryTable gpu{};       ///< of the run's stream
  int64_t statistics = 0;  ///< of the linear operators, which ranks tell each other (Llama::statistics)
  size_t token_files = 0;  ///< mapped: resident too, but the system takes it back where memory is short; in no row

  /// The foreseen peak of the resident set.
  size_t peak() const { return total(table) + token_files; }
};

/// So many that every phase of the run has steps; epochs become steps only where the data is at hand.
int64_t foreseen_steps(const Settings& settings);

/// The parts that the settings make of a model of that shape are built for a moment, without touching their memory, and
/// on a device that is imagined (tensor/imagined_device.hpp) where `stream` is a device's; to them come batches, what
/// products take while they work, and the program itself: `resident` bytes, the token files with it, before it has
/// parts. On a GPU without what its driver takes. `link`: what the run knows of its links, on which the ways of sums
/// depend that take different memory. Throws what building the parts throws.
RunMemory foresee_memory(Stream& stream, World& world, const Settings& settings, const ModelConfig& config,
                         size_t resident, const LinkCost& link = {});

/// Settings that take less memory, added to those of the candidates before.
struct MemoryCandidate {
  std::string change;  ///< "batch.lanes=1"
  size_t bytes = 0;    ///< in all rows
  size_t gpu = 0;      ///< in all rows of the GPU
};

/// What a rank can take.
struct MemoryLimits {
  size_t host = 0;
  size_t gpu = 0;  ///< where its stream is a GPU's

  bool hold(const MemoryCandidate& candidate) const { return candidate.bytes <= host && candidate.gpu <= gpu; }
  bool hold(const RunMemory& memory) const { return hold(MemoryCandidate{"", total(memory.table), total(memory.gpu)}); }
};

/// What the settings take as one remedy after the other is added to those before: shard levels where there are several
/// ranks, then what costs time, then what changes a run's identity, which a resumed run cannot do. Those that do not
/// help are left out: where the GPU's memory is short, those that take no less of it. Ends with the first that fits
/// into `most`, or with the last.
std::vector<MemoryCandidate> smaller_settings(Stream& stream, World& world, const Settings& settings,
                                              const ModelConfig& config, size_t resident, const MemoryLimits& most,
                                              bool resumed, const LinkCost& link = {});

/// Of this rank's GPU, with what its streams hold already; ranks that share one have equal parts.
AvailableMemory available_gpu_memory(const World& world);

/// What foresee_memory gives, if `most` is enough for it and the GPU has what it needs there. Throws Error{resource} if
/// not, with the largest rows and with what smaller settings would take; a resumed run can change fewer of them.
RunMemory require_memory(Stream& stream, World& world, const Settings& settings, const ModelConfig& config,
                         size_t resident, const AvailableMemory& most, bool resumed, const LinkCost& link = {});

/// The rows, the largest first, with the sum last; each begins a new line with `line_break`.
std::string memory_text(const RunMemory& memory, const std::string& line_break);
std::string gpu_memory_text(const RunMemory& memory, const std::string& line_break);

}  // namespace nibble
