// Muon and NorMuon: momentum whose matrix is orthogonalised, so that a step is equally long along all directions.
//
// Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024, in the form of Liu et al., "Muon is
// scalable for LLM training", arXiv 2502.16982:
//   b = momentum b + g;   u = g + momentum b (Nesterov) or b;   o = NewtonSchulz(u)
//   w *= 1 - lr wd;   w -= lr scale(rows, cols) o
// so the decay is that of the unscaled learning rate; u and o are rounded to the type of the products. NorMuon (Li et
// al., arXiv 2510.05491) divides each row of o by the root of a running mean of its squares and keeps the norm of the
// whole:
//   v_i = b2 v_i + (1 - b2) mean_j o_ij^2;   n_ij = o_ij / (sqrt(v_i) + 1e-8);   n *= |o| / |n|
// Not for: embeddings, heads and vectors (parameter_groups.hpp).
#pragma once

#include <optional>
#include <vector>

#include "optim/descend.hpp"
#include "optim/newton_schulz.hpp"
#include "optim/offloaded_state.hpp"
#include "optim/whole_matrices.hpp"

namespace nibble {

/// What an orthogonal matrix [rows, cols] is multiplied with besides the learning rate.
enum class MuonScale {
  original,   ///< sqrt(max(1, rows / cols)): Jordan et al.
  spectral,   ///< sqrt(rows / cols): the norm from RMS to RMS is the learning rate for every shape (arXiv 2310.17813)
  moonlight,  ///< 0.2 sqrt(max(rows, cols)): elements of RMS 0.2, as AdamW's, whose learning rate suits (Liu et al.)
};

double muon_scale(MuonScale scale, int64_t rows, int64_t cols);

struct MuonSettings {
  double momentum = 0.95;
  bool nesterov = true;
  MuonScale scale = MuonScale::moonlight;
  double weight_decay = 0.1;          ///< for parameters with `decay`
  std::optional<double> row_beta2{};  ///< NorMuon: memory of the rows' squares
  NewtonSchulzSettings newton_schulz{};
  MomentSettings moments{};  ///< of the momentum; NorMuon's rows stay f32
};

// What optimizers that orthogonalise have in common.

/// Operations, by which matrices are shared among the ranks (matrix_shares).
double orthogonalisation_work(const NewtonSchulzSettings& settings, const ParameterInfo& matrix);

/// With memory for those that this rank orthogonalises.
NewtonSchulz newton_schulz_of(const NewtonSchulzSettings& settings, std::span<const OptimizedParameter> matrices,
                              const WholeMatrices& whole, const ParameterShares& shares);

/// Newton-Schulz of a whole matrix, whose parameter's meter hears how nearly orthogonal it became.
void orthogonalise(Stream& stream, NewtonSchulz& newton_schulz, const OptimizedParameter& parameter,
                   const Tensor& whole, int64_t thread);

class Muon final : public Optimizer {
 public:
  /// Every parameter is orthogonalised by itself. Allocates the momenta, zero. What `shares` points to must outlive the
  /// object. Throws Error{configuration} for a momentum or a beta outside [0, 1), a negative decay, no steps.
  Muon(std::vector<OptimizedParameter> matrices, const MuonSettings& settings, const ParameterShares& shares = {});

  /// All ranks call it.
  void step(Stream& stream, const StepContext& context) override;
  /// "optimizer/momentum/NAME" (Moment::state), and NorMuon's "optimizer/row_second_moment/NAME" [rows, 1], f32.
  void state(StateList& list) override;

 private:
  std::vector<OptimizedParameter> parameters_;
  MuonSettings settings_;
  std::vector<Moment> momenta_;  ///< of what this rank has
  std::vector<Tensor> rows_;     ///< [1, rows] on the rank that orthogonalises the matrix, else empty
  WholeMatrices whole_;
  NewtonSchulz newton_schulz_;
  MomentMemory memory_;
  Arena row_memory_;
  std::optional<OffloadedState> offloaded_momenta_, offloaded_masters_;
};

}  // namespace nibble
