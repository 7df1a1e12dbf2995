// Delayed scaling: the largest magnitude of earlier steps stands for that of this one.
//
// Source: Transformer Engine's DelayedScaling (history of 1024, its maximum), Quartet II's one step. What a step saw
// enters the history once, on commit; zeros, infinities and NaN do not.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>

#include "tensor/state.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

class DelayedStatistic {
 public:
  /// `length` 0: nothing is delayed.
  explicit DelayedStatistic(int length) {
    if (length > 0) history_ = OwnedTensor(DType::f32, 1, length, "amax histories");
  }
  bool used() const { return static_cast<bool>(history_.view()); }

  /// What a call quantizes with: the history's largest, or `current` where the history is empty, and where it is no
  /// finite number: under an earlier scale infinities and NaN would saturate unnoticed.
  float get(float current) const {
    const float* begin = history_.view().as<float>();
    const float largest = *std::max_element(begin, begin + history_.view().cols);
    return largest > 0 && std::isfinite(current) ? largest : current;
  }
  void see(float current) { seen_ = std::isfinite(current) ? std::max(seen_, current) : seen_; }
  float& seen() { return seen_; }

  void commit() {
    if (seen_ > 0) {
      float* begin = history_.view().as<float>();
      std::copy_backward(begin, begin + history_.view().cols - 1, begin + history_.view().cols);
      *begin = seen_;
    }
    discard();
  }
  void discard() { seen_ = 0; }
  void state(StateList& list, std::string name) { list.add(std::move(name), history_.view()); }

 private:
  OwnedTensor history_;
  float seen_ = 0;
};

}  // namespace nibble
