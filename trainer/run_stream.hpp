// Where a run computes: on the processor or on a GPU, and what only the processor has yet.
#pragma once

#include <nlohmann/json.hpp>

#include "comm/world.hpp"
#include "tensor/stream.hpp"
#include "trainer/settings.hpp"

namespace nibble {

bool on_gpu(const Settings& settings);

/// The stream of a rank, on the GPU of its number on the host where run.device says so; more ranks than GPUs take them
/// in turn. By default the ranks of a host share its cores, unless the launcher has given each its own. Throws
/// Error{resource} where there is no such GPU.
Stream run_stream(const Settings& settings, const World& world);

/// Which of the GPUs that this process sees this rank has.
int gpu_of(const World& world);

/// Whatever can change the rounding of a run on the same data and settings: threads, instruction set, GEMM library,
/// GPU, and who computes attention there (run.gpu_attention) where it is a library.
nlohmann::json tuning_of(const Stream& stream, const World& world, const std::string& gpu_attention = "own");

}  // namespace nibble
