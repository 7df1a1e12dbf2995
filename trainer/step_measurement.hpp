// What a training step costs: kernel by kernel, held against what the machine can do.
//
// Not for: runs (training_run.hpp); the tokens are random, nothing is kept.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensor/profile.hpp"
#include "trainer/settings.hpp"

namespace nibble {

/// What the machine reaches, measured beside the steps: clocks change while one works.
struct MachineLimits {
  double products = 0;   ///< TFLOP/s of the GEMM's operands: median of a burst before each step
  double bandwidth = 0;  ///< GB/s of memory, reads and writes together
};

struct StepMeasurement {
  int threads = 0;
  std::string gemm_library;
  int64_t parameters = 0;
  int64_t tokens = 0;     ///< of a step
  double operations = 0;  ///< of a token
  MachineLimits limits;
  size_t memory_foreseen = 0, memory_peak = 0;  ///< bytes resident
  size_t gpu_memory = 0;                        ///< bytes of the GPU that the run's parts take
  // Medians over the steps, seconds.
  double step = 0, forward_backward = 0, optimizer = 0;
  struct Kernel {
    std::string name;
    KernelTotal per_step;  ///< means over the steps
  };
  std::vector<Kernel> kernels;  ///< the slowest first

  double tokens_per_second() const { return static_cast<double>(tokens) / step; }
  /// As in a step of so many micro-batches that the optimizer's time vanishes.
  double tokens_per_second_without_optimizer() const { return static_cast<double>(tokens) / forward_backward; }
};

/// Runs `steps` steps of the settings' model and batch, after one that is not counted; tells stderr how far it is
/// unless `silent`.
/// Throws Error{configuration} for an impossible shape, Error{resource} for one that does not fit the memory.
StepMeasurement measure_step(Settings settings, int64_t steps, bool silent = false);

}  // namespace nibble
