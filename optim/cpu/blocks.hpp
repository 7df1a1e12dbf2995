// How updates go over the blocks of parameters, on the stream's threads.
#pragma once

#include <algorithm>
#include <span>

#include "optim/kernels.hpp"

namespace nibble {

// Calls body(T()) with the element type of `tensor`, f32 or bf16.
template <class Body>
void with_type(const Tensor& tensor, Body&& body) {
  if (tensor.dtype == DType::bf16) body(bf16());
  else body(float());
}

// Calls body(first, count, working) for the parts of a block that are consecutive in the working copy too.
template <class T, class Body>
inline void for_each_row_part(const OptimizedParameter& parameter, const TensorBlock& block, Body&& body) {
  const Tensor& working = parameter.working;
  const bool packed = working.contiguous();
  for (int64_t first = block.first, end = block.first + block.count; first < end;) {
    const int64_t element = parameter.working_first + first;
    const int64_t row = packed ? 0 : element / working.cols, column = element - row * working.cols;
    const int64_t count = packed ? end - first : std::min(end - first, working.cols - column);
    body(first, count, working.as<T>() + row * working.stride + column);
    first += count;
  }
}

// Calls body(T(), parameter, block) for every block on the stream's threads; T is the working copy's element type.
template <class Body>
void for_each_block(Stream& stream, std::span<const OptimizedParameter> parameters, std::span<const TensorBlock> blocks,
                    Body&& body) {
  parallel_for(stream, std::ssize(blocks), 1, [&](int64_t begin, int64_t end) {
    for (const TensorBlock& block : blocks.subspan(begin, end - begin)) {
      const OptimizedParameter& parameter = parameters[block.tensor];
      with_type(parameter.working, [&](auto type) { body(type, parameter, block); });
    }
  });
}

}  // namespace nibble
