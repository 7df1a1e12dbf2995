// Estimates of a gradient that compressed differences move: MARINA (Gorbunov, Burlachenko, Li and Richtarik, ICML 2021,
// arXiv 2102.07845) and EF21 (Richtarik, Sokolov and Fatkhullin, arXiv 2106.05203).
//
// MARINA: one estimate, the same on all ranks: in a full step the mean gradient, else g + the mean of the ranks' codes
// of their gradients' difference between two points. EF21: each rank's own g_i, to which the codes of (gradient - g_i)
// are added, and the mean of them all, to which the mean of the codes is.
// Not for: gradients, codes and sums themselves.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "comm/code_source.hpp"
#include "comm/wire_work.hpp"
#include "tensor/state.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// Its elements, which only a device's work may touch where they are the device's.
inline std::span<float> span_of(const OwnedTensor& vector) {
  return {static_cast<float*>(vector.view().data), static_cast<size_t>(vector.view().size())};
}

/// A vector whose changes count only once the step does.
class RecursiveEstimate {
 public:
  /// Zeros, in the ledger of memory under `purpose`.
  explicit RecursiveEstimate(int64_t count, const std::string& purpose = "gradient estimates",
                             Place place = Place::host)
      : value_(DType::f32, 1, count, purpose, place), next_(DType::f32, 1, count, purpose, place) {}

  /// Of the last committed step; zero before the first.
  std::span<const float> value() const { return span_of(value_); }
  /// What it becomes on commit.
  std::span<const float> next() const { return changed_ ? span_of(next_) : span_of(value_); }

  /// What it becomes on commit, to be overwritten.
  std::span<float> change() {
    changed_ = true;
    return span_of(next_);
  }
  void replace(const WireWork& work, std::span<const float> value) { work.copy(value, change()); }
  void move_by(const WireWork& work, std::span<const float> difference) { work.plus(value(), difference, change()); }
  void commit() {
    if (changed_) std::swap(value_, next_);
    changed_ = false;
  }
  void discard() { changed_ = false; }

  /// The value's memory, until the next commit.
  Tensor tensor() const { return value_; }

 private:
  OwnedTensor value_, next_;
  bool changed_ = false;
};

/// Which steps of MARINA send gradients in full: the first of so many ranks, and each other with the probability. A
/// pure function of seed and step but for the first, so all ranks agree; the same for all buckets.
class FullSteps {
 public:
  FullSteps(uint64_t seed, double probability, int ranks) : seed_(seed), probability_(probability), ranks_(ranks) {}

  bool is_full(int64_t step) const {
    const uint32_t word =
        word_of_part(RandomStream(seed_, gradient_codes, static_cast<uint32_t>(step)), CodeSource::coin, 0);
    return estimated_by_ != ranks_ || word * 0x1p-32 < probability_;
  }
  /// The step counted; a first one that was refused is tried again in full.
  void commit() { estimated_by_ = ranks_; }
  /// What a resumed run needs: with it, and on as many ranks, it need not begin in full.
  void state(StateList& list, const std::string& prefix) { list.add_scalar(prefix + "estimated_by", estimated_by_); }

 private:
  uint64_t seed_;
  double probability_;
  int64_t ranks_, estimated_by_ = 0;
};

}  // namespace nibble
