// Whole matrices for updates that need them, where ranks have runs of them: each is brought to one rank, changed there,
// and brought back.
//
// Matrices go to ranks by work, and a wave has some of each rank: one exchange of all with all. While a wave is
// changed, the next one travels to its owners and the one before back from them. Every value is computed by one rank,
// and rounded to the type that travels even where none does, so that no number of ranks changes a bit. Where every rank
// has whole matrices, only the results travel. The gather of Liu et al., "Muon is scalable for LLM training", arXiv
// 2502.16982, section 2.3; but with one owner for a matrix, as in Ahn et al., "Dion", arXiv 2504.05295. Not for: what
// is done to them (muon.hpp).
#pragma once

#include <functional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "comm/collectives.hpp"
#include "comm/communication_thread.hpp"
#include "optim/optimizer.hpp"

namespace nibble {

/// shares[rank]: its matrices. The largest go first, each to the rank that has least to do (Graham, "Bounds on
/// multiprocessing timing anomalies", 1969).
std::vector<std::vector<int>> matrix_shares(std::span<const double> work, int ranks);

/// waves[w][rank]: the matrices that the rank has in wave w. A wave is about this large, unless single ones are larger.
using MatrixWave = std::vector<std::vector<int>>;
inline constexpr int64_t wave_elements = int64_t{1} << 23;
std::vector<MatrixWave> matrix_waves(const std::vector<std::vector<int>>& shares, std::span<const int64_t> elements);

/// A parameter that one rank updates whole.
struct MatrixWork {
  int parameter = 0;
  double operations = 0;    ///< multiplications and additions of a step, in the mean
  DType type = DType::f32;  ///< in which it goes there and back
};

/// By matrix.
std::vector<double> work_of(std::span<const OptimizedParameter> matrices,
                            const std::function<double(const ParameterInfo&)>& work);

class WholeMatrices {
 public:
  /// What a pass does with a matrix. `part` is this rank's run of it, packed, as many elements as its master.
  struct Stages {
    std::string_view kernel;                          ///< what the changes are in a profile
    std::function<double(size_t matrix)> operations;  ///< of a change, for the profile
    /// Fills the part; null: with the gradient, as f32.
    std::function<void(size_t matrix, const Tensor& part)> write{};
    /// On the owner alone; `whole` is [rows, cols]. Several threads change one matrix each where there are enough, so
    /// it may touch nothing that another matrix has, and of work memory only the thread's (< ParameterShares::threads).
    std::function<void(size_t matrix, const Tensor& whole, int64_t thread)> change;
    std::function<void(size_t matrix, const Tensor& part)> read;  ///< of what was changed
  };

  /// `type` of what travels, f32 or bf16. `work`: operations by matrix. What `shares` points to must outlive the
  /// object, and jobs of a pass that failed must be over before it ends (CommunicationThread::settle).
  WholeMatrices(std::span<const OptimizedParameter> matrices, DType type, std::span<const double> work,
                const ParameterShares& shares);
  WholeMatrices(const WholeMatrices&) = delete;
  WholeMatrices& operator=(const WholeMatrices&) = delete;

  bool owns(size_t matrix) const { return owner_[matrix] == rank_; }
  /// Whether several threads may change one matrix each, this one among them.
  bool changes_beside_others(size_t matrix) const { return beside_others_[matrix]; }

  /// In which a pass writes, changes and reads them.
  std::vector<size_t> order() const;

  /// All ranks call it.
  void pass(Stream& stream, const Stages& stages);

 private:
  struct Part {
    int matrix;
    Tensor part;     ///< this rank's
    Tensor whole{};  ///< if this rank owns it
  };
  struct Wave {
    MatrixWave matrices;        ///< by owner
    std::vector<Part> parts{};  ///< all of them, by owner
    std::vector<Communicator::Send> to_owners{}, from_owner{};
    std::vector<Communicator::Receive> at_owner{}, back{};
    Parts results{};  ///< where all ranks have whole matrices
    CommunicationThread::Ticket arrived = -1, returned = -1;
  };

  bool sharded() const { return shares_.partition != nullptr; }
  /// Of the host: a device's work is queued by one.
  bool enough_for_threads(size_t matrices) const {
    return masters_place(matrices_) == Place::host && shares_.threads > 1 &&
           std::cmp_greater_equal(matrices, shares_.threads);
  }
  /// What a rank has of a matrix.
  Run run(int matrix, int rank) const;
  int64_t elements(int matrix, int owner) const;
  /// The wave's parts within `memory`, and who sends what.
  void lay_out(Wave& wave, const Tensor& memory) const;
  void begin(Stream& stream, Wave& wave, const Stages& stages);
  void change(Stream& stream, Wave& wave, const Stages& stages);
  void change_own(Stream& stream, const Wave& wave, const Stages& stages) const;
  void finish(Wave& wave, const Stages& stages);

  std::vector<OptimizedParameter> matrices_;
  ParameterShares shares_;
  int rank_ = 0, ranks_ = 1;
  DType type_;
  std::vector<int> owner_;           ///< by matrix
  std::vector<bool> beside_others_;  ///< by matrix
  std::vector<Wave> waves_;
  Arena memory_;
};

}  // namespace nibble
