// What a step takes on a GPU that nobody has measured: its products at the peak of their type, its memory read and
// written at full speed, one after the other. A lower bound, since no kernel reaches these.
//
// Not for: a GPU that is there, which is measured (run_plan.hpp).
#pragma once

#include <cstdint>
#include <vector>

#include "optim/whole_matrices.hpp"
#include "quant/precision.hpp"
#include "trainer/datasheet_peaks.hpp"
#include "trainer/run_memory.hpp"
#include "trainer/settings.hpp"

namespace nibble {

struct GpuEstimate {
  double turn = 0;       ///< seconds: forward and backward pass of one micro-batch
  double optimizer = 0;  ///< norm and update of what the rank owns
  double matrices = 0;   ///< directions of all whole matrices
};

/// `stream` of such a GPU, imagined; `memory` of the rank, foreseen on it. Products of f32 count as such of bf16.
GpuEstimate estimate_step(Stream& stream, const Settings& settings, const ModelConfig& config,
                          const Precision& precision, const RunMemory& memory, const std::vector<MatrixWork>& matrices,
                          const DatasheetPeaks& peaks);

}  // namespace nibble
