// Estimates of a gradient that compressed differences move: MARINA (Gorbunov, Burlachenko, Li and Richtarik, ICML 2021,
// arXiv 2102.07845) and EF21 (Richtarik, Sokolov and Fatkhullin, arXiv 2106.05203).
//
// MARINA: one estimate, the same on all ranks: in a full step the mean gradient, else g + the mean of the ranks' codes
// of their gradients' difference between two points. EF21: each rank's own g_i, to which the codes of (gradient - g_i)
// are added, and the mean of them all, to which the mean of the codes is.
// Not for: gradients, codes and sums themselves.
#pragma once

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <span>
#include <vector>

#include "comm/code_source.hpp"

namespace nibble {

/// A vector whose changes count only once the step does.
class RecursiveEstimate {
 public:
  explicit RecursiveEstimate(int64_t count) : value_(static_cast<size_t>(count)), next_(value_.size()) {}

  /// Of the last committed step; zero before the first.
  std::span<const float> value() const { return value_; }
  /// What it becomes on commit.
  std::span<const float> next() const { return changed_ ? next_ : value_; }

  void replace(std::span<const float> value) {
    assert(value.size() == next_.size());
    std::ranges::copy(value, next_.begin());
    changed_ = true;
  }
  void move_by(std::span<const float> difference) {
    assert(difference.size() == next_.size());
    for (size_t i = 0; i < next_.size(); ++i) next_[i] = value_[i] + difference[i];
    changed_ = true;
  }
  void commit() {
    if (changed_) std::swap(value_, next_);
    changed_ = false;
  }
  void discard() { changed_ = false; }

 private:
  std::vector<float> value_, next_;
  bool changed_ = false;
};

/// Which steps of MARINA send gradients in full: the first after every start, whoever the ranks are then, and each
/// other with the probability. A pure function of seed and step but for the first, so all ranks agree.
class FullSteps {
 public:
  FullSteps(uint64_t seed, double probability) : seed_(seed), probability_(probability) {}

  bool is_full(uint32_t step) const {
    const uint32_t word = word_of_part(RandomStream(seed_, gradient_codes, step), CodeSource::coin, 0);
    return first_ || word * 0x1p-32 < probability_;
  }
  /// The step counted; a first one that was refused is tried again in full.
  void commit() { first_ = false; }
  void discard() {}

 private:
  uint64_t seed_;
  double probability_;
  bool first_ = true;
};

}  // namespace nibble
