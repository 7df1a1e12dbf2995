// How one bucket of gradients becomes its sum over the ranks: what exchanges differ in.
//
// Sums are made of each other: error feedback around codes, MARINA around either. All calls of one sum come from one
// thread at a time and in the same order on all ranks.
// Not for: when buckets are summed (exchange.hpp), collectives themselves.
#pragma once

#include <array>
#include <cassert>
#include <cstdint>
#include <map>
#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "comm/code_source.hpp"
#include "comm/collectives.hpp"
#include "tensor/state.hpp"
#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

enum class SumGoes { to_all, to_owner };

/// Memory that the sums of one thread take in turns: for each use as much as the largest bucket, if not more.
class SumScratch {
 public:
  enum Use { gathered, wrapped, sent, result, messages, uses };

  /// In the memory of values, for buckets of at most so many elements.
  explicit SumScratch(int64_t largest, Place place = Place::host) : largest_(largest), place_(place) {}
  /// So that it is in the ledger of memory before the first step.
  void reserve(Use use) { reserve(use, largest_); }
  void reserve(Use use, int64_t elements) {
    if (memory_[use].view() && memory_[use].view().size() >= elements) return;
    memory_[use] = {};
    memory_[use] = OwnedTensor(DType::f32, 1, elements, "communication", place_);
  }
  /// Nothing but what was reserved, or as much as the largest bucket.
  std::span<float> take(Use use, int64_t elements) {
    if (!memory_[use].view()) reserve(use);
    assert(elements <= memory_[use].view().size());
    return {static_cast<float*>(memory_[use].view().data), static_cast<size_t>(elements)};
  }
  /// Something else with memory of its own that all sums of one key take in turns.
  template <class T, class Make>
  std::shared_ptr<T> shared(const std::string& key, Make&& make) {
    std::shared_ptr<void>& one = shared_[key];
    if (!one) one = std::make_shared<T>(make());
    return std::static_pointer_cast<T>(one);
  }
  /// That of sums whose values a device's sum brings to the host.
  std::shared_ptr<SumScratch> on_host() {
    return shared<SumScratch>("on host", [this] { return SumScratch(largest_); });
  }

 private:
  int64_t largest_;
  Place place_;
  std::array<OwnedTensor, uses> memory_;
  std::map<std::string, std::shared_ptr<void>> shared_;
};

/// One bucket among those of a step, and the ranks that sum it.
struct BucketPlace {
  int number = 0;
  int group = 0, groups = 1;  ///< which part of the model it belongs to, of how many in its order
  int rank = 0;
  std::vector<int64_t> part_elements;  ///< by rank: how much of the bucket it owns, one part behind the other
  SumGoes goes = SumGoes::to_all;
  uint64_t seed = 0;         ///< of whatever is random
  uint32_t first_codes = 0;  ///< the number of the bucket's first bucket of codes, among all of a step
  Isa isa = Isa::avx2;
  Place memory = Place::host;  ///< in which the values lie, and what a sum remembers
  std::shared_ptr<SumScratch> scratch{};

  int ranks() const { return static_cast<int>(part_elements.size()); }
  int64_t elements() const { return std::accumulate(part_elements.begin(), part_elements.end(), int64_t{0}); }
  /// Elements before the part of `of_rank`.
  int64_t part_begin(int of_rank) const {
    return std::accumulate(part_elements.begin(), part_elements.begin() + of_rank, int64_t{0});
  }
  CodeSource codes(int64_t step) const {
    return {.seed = seed, .step = static_cast<uint32_t>(step), .first_bucket = first_codes, .rank = rank};
  }
  /// What this rank gets of the sum: all of it, or its own part.
  int64_t result_begin() const { return goes == SumGoes::to_all ? 0 : part_begin(rank); }
  int64_t result_elements() const {
    return goes == SumGoes::to_all ? elements() : part_elements[static_cast<size_t>(rank)];
  }
};

/// How far rounding hides the differences that MARINA sends: squares, summed over elements.
struct DifferenceSquares {
  double difference = 0;  ///< of gradients at two points
  double noise = 0;       ///< of that, what does not follow a straight line: rounding, and curvature after large steps
};

class BucketSum {
 public:
  virtual ~BucketSum() = default;

  /// For a run's record: "top 4 of 512, split, error feedback".
  virtual std::string description() const = 0;

  /// Whether some steps need gradients at more than one point.
  virtual bool compares_points() const { return false; }
  /// Of how many batches the gradient of `step` is; at most `most_batches`.
  virtual int64_t batches(int64_t /*step*/) const { return 1; }
  virtual int64_t most_batches() const { return 1; }
  /// At how many points `step` needs gradients: the last is the current weights.
  virtual int evaluations(int64_t /*step*/) const { return 1; }
  /// Takes the gradient at a point before the last, 0 or 1.
  virtual void keep(Communicator& /*ranks*/, int /*evaluation*/, const Parts& /*gradient*/) {}

  /// The sum over ranks in place of this rank's values, of all parts or of its own (BucketPlace::goes). If some rank
  /// has values that are not finite, so has the sum, on each rank that gets it. `own`, if it is not empty, becomes what
  /// this rank's message stands for, all parts one behind the other. Values and `own` lie in the place's memory; in a
  /// device's they are read and written in the order of the communicator's stream. Throws as Communicator::transfer.
  virtual void sum(Communicator& ranks, const Parts& values, int64_t step, std::span<float> own) = 0;

  /// The step counts: what was remembered becomes the sum's state.
  virtual void commit() {}
  /// The step was refused.
  virtual void discard() {}
  /// What a resumed run needs, under names that begin with `prefix`.
  virtual void state(StateList& /*list*/, const std::string& /*prefix*/) {}

  // What follows is there when the work of the last sum is done (Communicator::wait).
  /// |what this rank has yet to send|^2 after the last sum.
  virtual double residual_square() const { return 0; }
  /// Of the last sum that measured it, and zeros again after the next.
  virtual DifferenceSquares difference_squares() const { return {}; }
};

}  // namespace nibble
