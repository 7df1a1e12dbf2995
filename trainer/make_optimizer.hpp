// The optimizers that settings ask for: which there are, and who of them has which parameter.
//
// Not for: what they do (optim/).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "optim/optimizer.hpp"
#include "optim/whole_matrices.hpp"
#include "trainer/mup.hpp"
#include "trainer/settings.hpp"

namespace nibble {

/// What optimizer.name and the names of groups may be.
inline const std::vector<std::string> optimizer_names = {"adamw", "sgd", "ademamix", "muon", "normuon", "mars-m"};

/// Whether an optimizer of that name orthogonalizes. As optimizer.name it is that of projections, and adamw of all else
/// for which no group names one.
bool orthogonalizes(const std::string& name);

/// The parameters that orthogonalizing optimizers have. Throws as assign_groups.
std::vector<TravellingMatrix> travelling_matrices(const OptimizerSettings& settings,
                                                  const std::vector<ParameterInfo>& parameters);

/// What products of the optimizers take beside their own memory (tensor/gemm.hpp).
size_t optimizer_gemm_scratch_bytes(const Stream& stream, const OptimizerSettings& settings,
                                    const std::vector<ParameterInfo>& parameters);

/// `parameters`: all of the model, or this rank's runs of all of them. `steps` of the whole run. Throws as
/// assign_groups and as the optimizers do.
std::unique_ptr<Optimizer> make_optimizer(const OptimizerSettings& settings, int64_t steps,
                                          const std::vector<OptimizedParameter>& parameters,
                                          const ParameterShares& shares, const Mup& mup = {});

}  // namespace nibble
