// In which order what has none on a GPU takes its turns: blocks of a grid, warps of a block, lanes of a warp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>

namespace nibble::cuda::emulation {

/// A permutation of `count` things, drawn by a seed and by what is permuted; seed 0 leaves all in ascending order, 1
/// in descending.
class Order {
 public:
  Order(uint64_t seed, uint64_t of_what, size_t count) : count_(count) {
    if (seed == 0 || count < 2) return;
    if (seed == 1) {
      first_ = step_ = count - 1;
      return;
    }
    const uint64_t drawn = mix(mix(seed) ^ of_what);
    first_ = drawn % count;
    step_ = 1 + (drawn >> 32) % (count - 1);
    while (std::gcd(step_, count) != 1) ++step_;
  }

  /// Whose turn the i-th is.
  size_t operator[](size_t i) const { return (first_ + i % count_ * step_) % count_; }

 private:
  /// Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014: SplitMix's finalizer.
  static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
  }

  size_t count_, first_ = 0, step_ = 1;
};

}  // namespace nibble::cuda::emulation
