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
inline const std::vector<std::string> optimizer_names = {"adamw",   "sgd",    "ademamix", "muon",
                                                         "normuon", "mars-m", "shampoo",  "soap"};

/// Whether an optimizer of that name takes Newton-Schulz's result for its direction.
bool orthogonalizes(const std::string& name);
/// Whether an optimizer of that name takes matrices, each whole. As optimizer.name it is that of projections, and adamw
/// of all else for which no group names one.
bool takes_matrices(const std::string& name);

/// The parameters that such optimizers have, and the work with each. Throws as assign_groups.
std::vector<MatrixWork> whole_matrices(const OptimizerSettings& settings, const std::vector<ParameterInfo>& parameters);

/// Parameters that one optimizer updates.
struct UpdateGroup {
  std::string name;  ///< the optimizer's, as "mars_m"; the second of a name is "adamw_2"
  bool orthogonalizes = false;
  double learning_rate_factor = 1;  ///< what the step's learning rate is multiplied with
  std::vector<int> parameters{};    ///< by their number in the layout, ascending
};

/// All groups, in the order in which they are updated. Throws as assign_groups.
std::vector<UpdateGroup> update_groups(const OptimizerSettings& settings, const std::vector<ParameterInfo>& parameters,
                                       const Mup& mup);

/// Multiplies once what matrices of each shape are multiplied with that are updated whole, so that a device's
/// algorithms are chosen; takes memory for one of them meanwhile.
void rehearse_matrix_products(Stream& stream, const OptimizerSettings& settings,
                              const std::vector<ParameterInfo>& parameters);

/// What products of the optimizers take beside their own memory (tensor/gemm.hpp).
size_t optimizer_scratch_bytes(const Stream& stream, const OptimizerSettings& settings,
                               const std::vector<ParameterInfo>& parameters);
/// What their decompositions take of the host's memory, wherever the matrices are.
size_t decomposition_bytes(const Stream& stream, const OptimizerSettings& settings,
                           const std::vector<ParameterInfo>& parameters);

/// `parameters`: all of the model, or this rank's runs of all of them. `steps` of the whole run; `seed`: of the
/// rounding of moments. Throws as assign_groups and as the optimizers do.
std::unique_ptr<Optimizer> make_optimizer(const OptimizerSettings& settings, int64_t steps, uint64_t seed,
                                          const std::vector<OptimizedParameter>& parameters,
                                          const ParameterShares& shares, const Mup& mup = {});

}  // namespace nibble
