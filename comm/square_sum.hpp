// Sums of vectors' squares in double, with the same bits wherever the vectors lie: blocks of so many elements, each
// over the lanes and the tree of simd.hpp, then the blocks in order.
//
// Not for: norms of gradients (optim/gradient_norm.hpp).
#pragma once

#include <cstdint>
#include <span>

#include "comm/pinned_memory.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

class WireWork;

inline constexpr int64_t square_block = 4096;
constexpr int64_t square_blocks(int64_t elements) { return (elements + square_block - 1) / square_block; }

/// What is squared: of so many vectors of one length x, x - y, or x - 2 y + z, in double.
struct SquaredVectors {
  const float *x, *y = nullptr, *z = nullptr;
  int64_t elements = 0;
};

/// By block, on the host; on either side it is WireWork::block_squares.
void block_squares(const SquaredVectors& of, double* sums);

/// |values|^2 on the host.
double square_sum(std::span<const float> values);

/// A sum that is asked for later than it is queued.
class SquareSum {
 public:
  /// Of vectors of at most so many elements, which lie in `place`.
  SquareSum(int64_t most_elements, Place place);

  /// The sum becomes that of these squares, when what is queued on `work` is done.
  void take(const WireWork& work, std::span<const float> x, std::span<const float> y = {},
            std::span<const float> z = {});
  void clear() { blocks_ = 0; }
  /// On a device: after a wait for what `take` queued. Zero before the first.
  double total() const;

 private:
  Buffer sums_;           ///< by block, where the vectors lie
  PinnedMemory fetched_;  ///< the same, of a device's
  int64_t blocks_ = 0;
};

}  // namespace nibble
