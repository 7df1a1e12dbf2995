// What packing does to a model on a file of tokens: perplexity before and after, and the sizes of activations.
//
// Both perplexities are found in fp32 arithmetic with activations as they are, so that nothing but the weights differs:
// before, those that the run's recipe makes of its working copy; after, those that were read back. Were activations
// quantized, a difference in the last bit of one could move the roundings of all that follow.
// Not for: logits of a fixed batch (logit_difference.hpp), a recipe's own perplexity (nibble eval).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/loader.hpp"
#include "trainer/evaluation.hpp"
#include "trainer/packing_plan.hpp"
#include "trainer/run_directory.hpp"
#include "trainer/weight_source.hpp"

namespace nibble {

using WindowsProgress = std::function<void(int64_t done, int64_t of)>;

/// Of the model as it was trained. `loaded` holds f32 matrices, and steps where the precision learns them; they become
/// those of the working copy.
Evaluation evaluate_trained(Stream& stream, LoadedModel& loaded, const Precision& precision, const Loader& loader,
                            int64_t tokens, const WindowsProgress& progress = {});

/// Of weights as they are.
Evaluation evaluate_exported(Stream& stream, WeightSource& exported, const Loader& loader, int64_t tokens,
                             const WindowsProgress& progress = {});

/// By buffer, nvfp4's global scale of a projection's activations, 448 * 6 / the largest magnitude that `tokens` tokens
/// showed; 0 where the plan has none. `loaded` as above.
std::vector<float> activation_scales(Stream& stream, LoadedModel& loaded, const Precision& precision,
                                     const PackingPlan& plan, const Loader& loader, int64_t tokens);

}  // namespace nibble
