// How updates go over the blocks of parameters, on the stream's threads.
#pragma once

#include <algorithm>
#include <span>

#include "optim/kernels.hpp"
#include "tensor/simd.hpp"

namespace nibble {

/// Calls body(T()) with the element type of `tensor`, f32 or bf16.
template <class Body>
[[gnu::always_inline]] inline void with_type(const Tensor& tensor, Body&& body) {
  if (tensor.dtype == DType::bf16) body(bf16());
  else body(float());
}

/// Rounds elements [first, first + count) of the master into the working copy, whose rows may be padded.
template <class T>
[[gnu::always_inline]] inline void round_to_working(const OptimizedParameter& parameter, int64_t first, int64_t count) {
  const Tensor& working = parameter.working;
  const bool packed = working.contiguous();
  const float* master = parameter.master.as<float>() + first;
  for (int64_t element = parameter.working_first + first, end = element + count; element < end;) {
    const int64_t row = packed ? 0 : element / working.cols, column = element - row * working.cols;
    const int64_t part = packed ? end - element : std::min(end - element, working.cols - column);
    T* const to = working.as<T>() + row * working.stride + column;
    simd::for_each_group(part, [&](int64_t i, int64_t n) { simd::store_n(to + i, simd::load_n(master + i, n), n); });
    element += part;
    master += part;
  }
}
[[gnu::always_inline]] inline void round_to_working(const OptimizedParameter& parameter, int64_t first, int64_t count) {
  if (parameter.working.dtype == DType::bf16) round_to_working<bf16>(parameter, first, count);
  else round_to_working<float>(parameter, first, count);
}

/// Calls update(first, count) for tiles of so many elements of a block, and rounds each tile's masters, which then are
/// in a cache, into the working copy.
template <class Update>
[[gnu::always_inline]] inline void update_in_tiles(const OptimizedParameter& parameter, const TensorBlock& block,
                                                   int64_t tile, Update&& update) {
  for (int64_t first = block.first, end = block.first + block.count; first < end; first += tile) {
    const int64_t count = std::min(tile, end - first);
    update(first, count);
    round_to_working(parameter, first, count);
  }
}

/// Calls body(parameter, block) for every block on the stream's threads.
template <class Body>
void for_each_block(Stream& stream, std::span<const OptimizedParameter> parameters, std::span<const TensorBlock> blocks,
                    Body&& body) {
  parallel_for(stream, std::ssize(blocks), 1, [&](int64_t begin, int64_t end) {
    for (const TensorBlock& block : blocks.subspan(begin, end - begin)) body(parameters[block.tensor], block);
  });
}

/// What `update` is taken from: w times `decay`, which is 1 where the parameter does not decay; cautious decay (Chen et
/// al., arXiv 2510.12402) leaves elements that the update makes larger.
[[gnu::always_inline]] inline simd::f32x decayed(simd::f32x w, simd::f32x update, float decay, bool cautious) {
  const simd::f32x smaller = w * decay;
  if (!cautious) return smaller;
  return update * w >= 0.0f ? smaller : w;
}

/// The squares of what an update took from masters beside the decay, which multiplied them with `decay`, or if it is
/// cautious those that moved towards zero; in double, over lanes and a tree as in gradient_square_sums.
inline double update_squares(const float* before, const float* after, int64_t count, float decay, bool cautious) {
  simd::f64x squares{};
  simd::for_each_group(count, [&](int64_t i, int64_t part) {
    const simd::f64x w = simd::widen(simd::load_n(before + i, part)),
                     change = w - simd::widen(simd::load_n(after + i, part)),
                     beside_decay = change - w * (1 - static_cast<double>(decay));
    const simd::f64x update = cautious ? (change * w > 0.0 ? beside_decay : change) : beside_decay;
    squares += update * update;
  });
  return simd::sum(squares);
}

// As for_each_block, of a body that updates masters; those with decay it first multiplies with `decay`. Meters that are
// on are told how long the updates were.
template <class Body>
void for_each_update(Stream& stream, std::span<const OptimizedParameter> parameters,
                     std::span<const TensorBlock> blocks, float decay, Body&& body) {
  for_each_block(stream, parameters, blocks, [&](const OptimizedParameter& parameter, const TensorBlock& block) {
    if (!parameter.meter || !parameter.meter->on()) return body(parameter, block);
    float before[block_elements];
    const float* const master = parameter.master.as<float>() + block.first;
    std::copy_n(master, block.count, before);
    body(parameter, block);
    parameter.meter->squares(parameter.number, parameter.first + block.first) =
        update_squares(before, master, block.count, parameter.decay ? decay : 1.0f, parameter.cautious);
  });
}

/// Bytes that an update of masters moves: these and the gradients read, these and the working copies written.
inline double update_bytes(std::span<const OptimizedParameter> parameters) {
  double bytes = 0;
  for (const OptimizedParameter& parameter : parameters)
    bytes +=
        static_cast<double>(3 * parameter.master.bytes() + parameter.master.size() * size_of(parameter.working.dtype));
  return bytes;
}

}  // namespace nibble
