// Working memory of one call of a linear operator, handed out front to back (Linear::scratch_bytes).
//
// How much that is, the operator's own code says: it runs once with a scratch that only counts, and leaves out whatever
// would read or write.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "tensor/error.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

class LinearScratch {
 public:
  explicit LinearScratch(const Tensor& memory)
      : counts_(false),
        place_(memory.place),
        begin_(reinterpret_cast<uintptr_t>(memory.data)),
        end_(begin_ + memory.bytes()),
        next_(begin_),
        most_(begin_) {}
  /// Of memory that nobody has: what it hands out may be asked for its shape, and whether it is there.
  static LinearScratch counting() { return {}; }
  bool counts() const { return counts_; }

  Tensor take(DType type, int64_t rows, int64_t cols) {
    const uintptr_t memory = next_;
    const int64_t stride = padded_stride(type, cols);
    next_ += bytes_of(type, rows, stride);
    most_ = std::max(most_, next_);
    if (next_ > end_)
      throw Error({.kind = ErrorKind::internal, .what = "a linear operator's scratch memory is too small"});
    return {type, reinterpret_cast<void*>(memory), rows, cols, stride, place_};
  }
  /// So much was taken at one time, in bytes.
  size_t most() const { return most_ - begin_; }

  /// What is taken after a mark is given back by returning to it.
  uintptr_t mark() const { return next_; }
  void back_to(uintptr_t mark) { next_ = mark; }

 private:
  LinearScratch() = default;

  bool counts_ = true;
  Place place_ = Place::host;
  uintptr_t begin_ = alignment, end_ = std::numeric_limits<uintptr_t>::max(), next_ = begin_, most_ = begin_;
};

}  // namespace nibble
