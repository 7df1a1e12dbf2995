// Working memory of one call of a linear operator, handed out front to back (Linear::scratch_bytes).
#pragma once

#include "tensor/error.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

class LinearScratch {
 public:
  explicit LinearScratch(const Tensor& memory)
      : begin_(static_cast<char*>(memory.data)), end_(begin_ + memory.size()), next_(begin_) {}

  Tensor take(DType type, int64_t rows, int64_t cols) {
    char* const memory = next_;
    next_ += bytes(type, rows, cols);
    if (next_ > end_)
      throw Error({.kind = ErrorKind::internal, .what = "a linear operator's scratch memory is too small"});
    return {type, memory, rows, cols, padded_stride(type, cols)};
  }
  static size_t bytes(DType type, int64_t rows, int64_t cols) {
    return bytes_of(type, rows, padded_stride(type, cols));
  }

  /// What is taken after a mark is given back by returning to it.
  char* mark() const { return next_; }
  void back_to(char* mark) { next_ = mark; }

 private:
  char *begin_, *end_, *next_;
};

}  // namespace nibble
