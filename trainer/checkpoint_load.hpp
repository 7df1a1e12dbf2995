// Reading the state of a checkpoint, whoever wrote which part of it: any number of ranks then, any number now.
//
// Not for: finding and verifying checkpoints (checkpoint.hpp).
#pragma once

#include <string_view>
#include <vector>

#include "model/parameters.hpp"
#include "tensor/state.hpp"
#include "trainer/checkpoint.hpp"

namespace nibble {

/// Fills every entry of `state`, whole tensors and runs, but those whose names begin with one of `left_out`: they are
/// as they were, and what the checkpoint has of that kind is not read. None is touched when the checkpoint does not
/// fit. Throws Error{checkpoint}: entries that are missing, left over, of another element type or of another logical
/// shape than in `state`; values of f32 or bf16 that are not finite, when some of `state` is filled already.
void load_checkpoint(const VerifiedCheckpoint& checkpoint, StateList& state,
                     const std::vector<std::string_view>& left_out = {});

/// Allocates the parameters (matrices in `matrix`, f32 or bf16 rounded to nearest even; gains in f32; rows padded) and
/// fills them from the master weights alone. Nothing is allocated when the checkpoint does not fit.
/// Throws Error{checkpoint} as load_checkpoint.
ParameterSet load_checkpoint_weights(const VerifiedCheckpoint& checkpoint, const ParameterLayout& layout, DType matrix);

/// Throws Error{checkpoint} when a master weight of the layout is missing or of another shape.
void require_checkpoint_weights(const VerifiedCheckpoint& checkpoint, const ParameterLayout& layout);

/// Fills `into` [n, cols] (f32 or bf16, as above; its rows may be strided) with rows [first, first + n) of one master
/// weight. Throws Error{checkpoint} as load_checkpoint, and for values that are not finite.
void read_checkpoint_weight(const VerifiedCheckpoint& checkpoint, const ParameterInfo& parameter, int64_t first,
                            const Tensor& into);

}  // namespace nibble
