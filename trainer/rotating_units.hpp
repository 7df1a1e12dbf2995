// Rotating memory, in which the blocks of a model take turns: where a unit lies, and what a pass brings there.
//
// Not for the bringing (trainer/sharded_weights.hpp).
#pragma once

#include <array>
#include <vector>

#include "model/parameters.hpp"

namespace nibble {

/// The weights: blocks in two places, the embedding in a third, which an untied head uses too.
class RotatingUnits {
 public:
  /// `layout` must outlive the object.
  explicit RotatingUnits(const ParameterLayout& layout);

  /// Nothing is in its place any more.
  void clear();
  /// A pass comes to `unit`: what to bring, in this order. It is the unit itself and the next one, unless they are
  /// there; the next one's place belonged to the unit before, which the pass has left behind.
  std::vector<int> come_to(int unit);

 private:
  int& resident(int unit);

  const ParameterLayout& layout_;
  std::array<int, 4> resident_{};  ///< by place
  int unit_ = 0;                   ///< where the pass stands
};

/// Whether the gradients of two units lie in the same part of a rotating set.
bool share_gradient_memory(const ParameterLayout& layout, int a, int b);

}  // namespace nibble
