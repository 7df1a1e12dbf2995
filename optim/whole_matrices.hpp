// Whole matrices for updates that need them, where ranks have runs of them: each is brought to one rank, changed there,
// and brought back.
//
// Matrices go to ranks by work. A wave has one of each rank: while it is changed, the next one travels to its owners
// and the one before back from them. What travels is f32, and every value is computed by one rank, so that no number of
// ranks changes a bit. Where every rank has whole matrices, only the results travel.
// The gather of Liu et al., "Muon is scalable for LLM training", arXiv 2502.16982, section 2.3; but with one owner for
// a matrix, as in Ahn et al., "Dion", arXiv 2504.05295. Not for: what is done to them (muon.hpp).
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "comm/collectives.hpp"
#include "comm/communication_thread.hpp"
#include "optim/optimizer.hpp"

namespace nibble {

/// waves[w][rank]: the matrix that the rank has in wave w, or -1. The largest go first, each to the rank that has least
/// to do (Graham, "Bounds on multiprocessing timing anomalies", 1969).
std::vector<std::vector<int>> matrix_waves(std::span<const double> work, int ranks);

class WholeMatrices {
 public:
  /// What a pass does with a matrix. `part` is this rank's run of it, f32 packed, as many elements as its master.
  struct Stages {
    std::function<void(size_t matrix, const Tensor& part)> write;    ///< fills the part
    std::function<void(size_t matrix, const Tensor& whole)> change;  ///< on the owner alone; [rows, cols]
    std::function<void(size_t matrix, const Tensor& part)> read;     ///< of what was changed
  };

  /// `work`: by matrix, in any unit. What `shares` points to must outlive the object, and jobs of a pass that failed
  /// must be over before it ends (CommunicationThread::settle).
  WholeMatrices(std::span<const OptimizedParameter> matrices, std::span<const double> work,
                const ParameterShares& shares);
  WholeMatrices(const WholeMatrices&) = delete;
  WholeMatrices& operator=(const WholeMatrices&) = delete;

  bool owns(size_t matrix) const { return owner_[matrix] == rank_; }

  /// All ranks call it.
  void pass(const Stages& stages);

 private:
  struct Wave {
    std::vector<int> matrices;  ///< by owner; -1: none
    std::vector<Tensor> parts;  ///< by owner: this rank's part
    Tensor whole{};             ///< this rank's own matrix
    std::vector<Communicator::Send> to_owners{}, from_owner{};
    std::vector<Communicator::Receive> at_owner{}, back{};
    Parts results{};  ///< where all ranks have whole matrices
    CommunicationThread::Ticket arrived = -1, returned = -1;
  };

  bool sharded() const { return shares_.partition != nullptr; }
  /// What a rank has of a matrix.
  Run run(int matrix, int rank) const;
  int64_t elements(const Wave& wave, int owner) const;
  /// The wave's parts within `memory`, and who sends what.
  void lay_out(Wave& wave, const Tensor& memory) const;
  void begin(Wave& wave, const Stages& stages);
  void change(Wave& wave, const Stages& stages);
  void finish(Wave& wave, const Stages& stages);

  std::vector<OptimizedParameter> matrices_;
  ParameterShares shares_;
  int rank_ = 0, ranks_ = 1;
  std::vector<int> owner_;  ///< by matrix
  std::vector<Wave> waves_;
  Arena memory_;
};

}  // namespace nibble
