// The interface of optimizers: what they update, what a step is told, what a checkpoint keeps.
//
// An optimizer owns its moments. Masters, gradients and working copies belong to whoever builds the list of parameters,
// so that a wrapper can hand an optimizer the shard of one rank: a flat run of elements of each parameter.
// Not for: averaging gradients over ranks (comm/), clipping (gradient_norm.hpp), learning rates (schedule.hpp).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "comm/communication_thread.hpp"
#include "comm/partition.hpp"
#include "model/parameters.hpp"
#include "optim/update_meter.hpp"
#include "tensor/state.hpp"
#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// A logical matrix, or a run of its elements (row-major) that one rank owns, with all that an update reads and writes.
struct OptimizedParameter {
  const ParameterInfo* info = nullptr;
  Tensor master;    ///< f32, packed: [rows, cols] of `info`, or a run of it as one row [1, n]
  Tensor gradient;  ///< f32, packed, as many elements; averaged, not yet clipped
  Tensor working;   ///< bf16 or f32, rows may be padded: the model's copy, rounded to nearest from the master
  bool decay = false;
  bool cautious = false;         ///< an element decays only where the update has its sign or is 0 (arXiv 2510.12402)
  bool owned = false;            ///< a run that no other rank has, an empty one maybe; else all ranks have the whole
  int64_t first = 0;             ///< element of the logical matrix with which the run begins
  int64_t working_first = 0;     ///< the same element, counted in `working`
  int number = 0;                ///< of the parameter in the model's layout, and of the tensor in ParameterShares
  UpdateMeter* meter = nullptr;  ///< while it is on, updates tell it of themselves (for_each_update); none: nobody asks
};

/// How ranks share the parameters, for optimizers that need more of one than their own run.
struct ParameterShares {
  int threads = 1;                        ///< of the stream that runs the steps
  CommunicationThread* thread = nullptr;  ///< none: this rank is alone
  const Partition* partition = nullptr;   ///< whose runs the ranks have; none: each has all
};

/// Where masters are updated, and where optimizers keep what is not offloaded (offloaded_state.hpp).
Place masters_place(std::span<const OptimizedParameter> parameters);

/// Rounds every master into its working copy: after initialisation, after loading. Steps do it themselves.
void refresh_working_copies(Stream& stream, std::span<const OptimizedParameter> parameters);

/// Declares what belongs to a parameter, element by element, as state "PREFIX/PARAMETER".
void add_state(StateList& list, const std::string& prefix, const OptimizedParameter& parameter, const Tensor& value);

/// What changes from step to step.
struct StepContext {
  int64_t step = 1;           ///< updates applied so far, this one included; refused steps do not count
  double learning_rate = 0;   ///< of this step
  double gradient_scale = 1;  ///< the clip factor; gradients are multiplied with it where they are read
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;

  /// Updates moments, masters and working copies from the gradients, which are not changed.
  /// The caller refuses steps whose gradient is not finite; the same input gives the same bits with any number of
  /// threads.
  virtual void step(Stream& stream, const StepContext& context) = 0;

  /// Adds what a resumed run needs, named "optimizer/MOMENT/PARAMETER", in the parameter's shape; what belongs to
  /// blocks of it, as [blocks, 1].
  virtual void state(StateList& list) = 0;
};

}  // namespace nibble
