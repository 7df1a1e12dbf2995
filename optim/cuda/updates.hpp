// Updates of masters from gradients and moments, all blocks of all parameters in one launch; a block of threads has a
// block of 4096 elements, and each of its warps tiles of that. Not for: what a rule computes (adam.cu, sgd.cu).
#pragma once

#include <algorithm>
#include <array>
#include <cassert>
#include <utility>

#include "optim/cuda/blocks.hpp"
#include "optim/cuda/moment_tiles.hpp"
#include "tensor/cuda/quotient.hpp"
#include "tensor/cuda/square_lanes.hpp"

namespace nibble::cuda {

/// OptimizedParameter for kernels.
class DeviceParameter {
 public:
  explicit DeviceParameter(const OptimizedParameter& parameter)
      : decays(parameter.decay),
        cautious(parameter.cautious),
        measured(parameter.meter && parameter.meter->on()),
        narrow_gradient_(parameter.gradient.dtype == DType::bf16),
        narrow_working_(parameter.working.dtype == DType::bf16),
        master_(parameter.master.on_device<float>()),
        gradient_(parameter.gradient.data),
        working_(parameter.working.data),
        working_first_(parameter.working_first),
        cols_(parameter.working.contiguous() ? 0 : parameter.working.cols),
        stride_(parameter.working.stride) {}

  __device__ float* master(int64_t first) const { return global(master_) + first; }

  __device__ Share<float> gradient(int64_t first, int count) const {
    if (narrow_gradient_) return converted<float>(load(static_cast<const bf16*>(global(gradient_)) + first, count));
    return load(static_cast<const float*>(global(gradient_)) + first, count);
  }

  /// The tile's new masters, rounded.
  __device__ void store_working(int64_t first, int count, const Share<float>& masters) const {
    if (narrow_working_) store_working(static_cast<bf16*>(global(working_)), first, count, masters);
    else store_working(static_cast<float*>(global(working_)), first, count, masters);
  }

  bool decays, cautious, measured;

 private:
  template <class T>
  __device__ void store_working(T* working, int64_t first, int count, const Share<float>& masters) const {
    for (int half = 0; half < 2; ++half) {
      const int begin = place_of(half), left = count - begin < quad ? count - begin : quad;
      if (left <= 0) continue;
      const int64_t element = working_first_ + first + begin;
      const int64_t row = cols_ == 0 ? 0 : quotient(element, cols_);
      int64_t col = element - row * cols_;
      T* to = working + row * stride_ + col;
      if (left == quad && (cols_ == 0 || col + quad <= cols_) && holds_quads(to)) {
        Pack<T, quad> pack;
        for (int j = 0; j < quad; ++j) pack[j] = static_cast<T>(masters[half * quad + j]);
        *reinterpret_cast<Pack<T, quad>*>(to) = pack;
        continue;
      }
      for (int j = 0; j < quad; ++j) {
        if (j >= left) break;
        *to++ = static_cast<T>(masters[half * quad + j]);
        if (++col != cols_) continue;
        col = 0;
        to += stride_ - cols_;
      }
    }
  }

  bool narrow_gradient_, narrow_working_;
  float* master_;
  const void* gradient_;
  void* working_;
  int64_t working_first_;
  int64_t cols_;  ///< of the working copy; 0: packed
  int64_t stride_;
};

/// body(first, count) for the tiles of a block of elements, each by one warp of the thread block.
template <class Body>
__device__ void for_each_tile_of(int64_t first, int64_t count, Body&& body) {
  for (int64_t tile = int64_t{threadIdx.x / warp_lanes} * tile_elements; tile < count;
       tile += int64_t{blockDim.x / warp_lanes} * tile_elements)
    body(first + tile, static_cast<int>(count - tile < tile_elements ? count - tile : tile_elements));
}

/// What an update is taken from (optim/cpu/blocks.hpp).
__device__ inline float decayed(float w, float update, float decay, bool cautious) {
  const float smaller = w * decay;
  return !cautious || update * w >= 0.0f ? smaller : w;
}

/// As optim/cpu/blocks.hpp adds them; all threads of the first warp, which get the sum.
__device__ inline double update_squares(const float* before, const float* after, int64_t count, float decay,
                                        bool cautious) {
  double squares = 0;
  for (int64_t i = lane(); lane() < square_lanes && i < count; i += square_lanes) {
    const double w = before[i], change = w - after[i], beside_decay = change - w * (1 - static_cast<double>(decay));
    const double update = !cautious || change * w > 0.0 ? beside_decay : change;
    squares += update * update;
  }
  return sum_of_square_lanes(squares);
}

template <class Rule>
inline constexpr size_t moments_of_rule = Rule::kinds.size();

template <class Rule>
struct Updated {
  DeviceParameter parameter;
  std::array<DeviceMoment, moments_of_rule<Rule>> moments;
};

/// With the moments as they are kept; all else is read before the first of them is unpacked.
template <class... Formats, class Rule>
__device__ void update_tile(const Updated<Rule>& updated, int64_t first, int count, const Rule& rule, float decay,
                            float* before, float* after, const typename Formats::Kept&... kept) {
  const DeviceParameter parameter = updated.parameter;  // kept: stores might change what is behind a reference
  const Share<float> gradient = parameter.gradient(first, count);
  Share<float> masters = load(parameter.master(first), count);
  if (before) store(before, count, masters);
  std::array<Share<float>, sizeof...(Formats)> moments{Formats::unpacked(kept)...};
  const auto constants = std::make_index_sequence<sizeof...(Formats)>();
  [&]<size_t... k>(std::index_sequence<k...>) {
    for (int j = 0; j < lane_elements; ++j) {
      std::array<float, sizeof...(Formats)> m{moments[k][j]...};
      const float update = rule(gradient[j], m);
      ((moments[k][j] = m[k]), ...);
      masters[j] = decayed(masters[j], update, decay, parameter.cautious) - update;
    }
    (Formats::write(updated.moments[k], first, count, moments[k]), ...);
  }
  (constants);
  store(parameter.master(first), count, masters);
  parameter.store_working(first, count, masters);
  if (after) store(after, count, masters);
}

/// Blocks of threads that a multiprocessor has at once: enough that one reads while another computes.
inline constexpr unsigned blocks_at_once = 2;

/// `squares` of blocks that are measured; null: none is.
template <class Rule>
__global__ void __launch_bounds__(tile_threads, blocks_at_once)
    update_blocks(StretchTable<Updated<Rule>> table, Rule rule, double* squares) {
  const FoundBlock<Updated<Rule>> block = find_block(table, blockIdx.x);
  const Updated<Rule>& updated = block.subject;
  const float decay = updated.parameter.decays ? rule.decay() : 1.0f;
  const bool measured = squares && updated.parameter.measured;
  float* const before = shared_memory<float>();
  float* const after = before + block_elements;
  const auto update = [&](auto precision) {
    for_each_tile_of(block.first, block.count, [&](int64_t first, int count) {
      const int64_t inside = first - block.first;
      [&]<size_t... k>(std::index_sequence<k...>) {
        update_tile<FormatOf<Rule::kinds[k], precision>...>(
            updated, first, count, rule, decay, measured ? before + inside : nullptr,
            measured ? after + inside : nullptr,
            FormatOf<Rule::kinds[k], precision>::read(updated.moments[k], first, count)...);
      }
      (std::make_index_sequence<moments_of_rule<Rule>>());
    });
  };
  if constexpr (moments_of_rule<Rule> == 0) update(std::integral_constant<MomentPrecision, MomentPrecision::f32>());
  else with_precision(updated.moments[0].precision, update);
  if (!measured) return;
  __syncthreads();
  if (threadIdx.x >= warp_lanes) return;
  const double sum = update_squares(before, after, block.count, decay, updated.parameter.cautious);
  if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

/// A rule has the `kinds` of its moments, decay() and operator(gradient, moments), which changes the moments and
/// returns what the master loses. moments_of(i): those of parameter i, in one precision. Meters that are on are told at
/// once.
template <class Rule, class MomentsOf>
void update(Stream& stream, std::span<const OptimizedParameter> parameters, std::span<const TensorBlock> blocks,
            const Rule& rule, MomentsOf&& moments_of) {
  if (blocks.empty()) return;
  const StretchTable<Updated<Rule>> table = send_stretches(stream, blocks, [&](int64_t i) {
    return Updated<Rule>{DeviceParameter(parameters[static_cast<size_t>(i)]), moments_of(static_cast<size_t>(i))};
  });
  const auto is_measured = [](const OptimizedParameter& parameter) { return parameter.meter && parameter.meter->on(); };
  const bool measured = std::ranges::any_of(parameters, is_measured);
  const auto squares = measured ? stream.staging().take<double>(blocks.size()) : Staged<double>{};
  launch(stream.queue(), {static_cast<unsigned>(blocks.size())}, {tile_threads},
         measured ? 2 * block_elements * sizeof(float) : 0, update_blocks<Rule>, table, rule, squares.device);
  if (!measured) return;
  stream.queue().copy(squares.host, squares.device, blocks.size() * sizeof(double));
  stream.wait();
  for (size_t i = 0; i < blocks.size(); ++i) {
    const OptimizedParameter& parameter = parameters[static_cast<size_t>(blocks[i].tensor)];
    assert(blocks[i].count <= block_elements);
    if (is_measured(parameter))
      parameter.meter->squares(parameter.number, parameter.first + blocks[i].first) = squares.host[i];
  }
}

}  // namespace nibble::cuda
