// A block for each bucket of codes; what is rotated lies in the block's memory meanwhile.
#include "comm/cuda/correlated.hpp"

#include <limits>

#include "comm/cuda/larger_bits.hpp"
#include "comm/cuda/rotation.hpp"
#include "comm/level_arithmetic.hpp"
#include "tensor/cuda/kernel.hpp"
#include "tensor/real.hpp"

namespace nibble::cuda {
namespace {

unsigned threads_of(const CountTask& task) { return task.rotates ? threads_of_eights(task.largest_bucket) : 256; }

__global__ void __launch_bounds__(1024, 1) prepare_buckets(CountTask task) {
  __shared__ uint32_t shared[warp_lanes];
  const CodedBucket bucket = task.buckets[blockIdx.x];
  float* const values = task.values + bucket.begin;
  const auto first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  float* x = values;
  if (task.rotates) {
    x = shared_memory<float>();
    const float factor = normalization(bucket.codes);
    const WarpSigns signs(task.random, blockIdx.x, task.signs);
    transform(x, bucket.codes,
              [&](int k, int i) { return with_sign((i < bucket.values ? values[i] : 0.0f) * factor, signs(k)); });
  }
  uint32_t largest = 0;
  for (int i = first; i < bucket.codes; i += step) {
    largest = LargerBits()(largest, simd::as<uint32_t>(x[i]) & 0x7fffffffu);
    if (task.rotates) values[i] = x[i];
  }
  largest = over_block(largest, shared, LargerBits());
  if (threadIdx.x != 0) return;
  task.ranges[blockIdx.x] =
      encodable_magnitude(largest) ? simd::as<float>(largest) : std::numeric_limits<float>::infinity();
}

__global__ void look_for_infinite(CountTask task) {
  __shared__ uint32_t shared[warp_lanes];
  uint32_t infinite = 0;
  for (int64_t bucket = threadIdx.x; bucket < task.count; bucket += blockDim.x)
    if (!(task.ranges[bucket] <= std::numeric_limits<float>::max())) infinite = 1;
  infinite = over_block(infinite, shared, LargerBits());
  if (threadIdx.x == 0) *task.infinite = infinite;
}

__device__ LevelGrid grid_of(const CountTask& task, int64_t bucket) {
  return LevelGrid::of(task.bits, words_of(task.random, bucket, task.first_levels, 0)[0]);
}

template <class Count>
__global__ void __launch_bounds__(1024) encode_buckets(CountTask task) {
  const CodedBucket bucket = task.buckets[blockIdx.x];
  const float range = task.ranges[blockIdx.x];
  const CorrelatedLevels levels = grid_of(task, blockIdx.x).within(range, task.bits);
  const float* const values = task.values + bucket.begin;
  Count* const counts = static_cast<Count*>(task.counts) + bucket.begin;
  for (auto group = static_cast<int>(threadIdx.x); 4 * group < bucket.codes; group += static_cast<int>(blockDim.x)) {
    const PhiloxBlock offsets = words_of(task.random, blockIdx.x, task.offsets, group),
                      thresholds = words_of(task.random, blockIdx.x, task.stratum.thresholds, group);
    NIBBLE_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int i = 4 * group + j;
      if (i >= bucket.codes) break;
      // Of what is not finite nothing is made in the end.
      const float x = range <= std::numeric_limits<float>::max() ? values[i] : 0.0f;
      counts[i] = static_cast<Count>(correlated_code(levels, task.stratum, x, offsets[static_cast<size_t>(j)],
                                                     thresholds[static_cast<size_t>(j)]));
    }
  }
}

template <class Count>
__global__ void __launch_bounds__(1024) decode_buckets(CountTask task) {
  const CodedBucket bucket = task.buckets[blockIdx.x];
  const CountMeaning meaning =
      CountMeaning::of(grid_of(task, blockIdx.x), task.ranges[blockIdx.x], static_cast<int>(task.stratum.ranks));
  const Count* const counts = static_cast<const Count*>(task.counts) + bucket.begin;
  float* const values = task.values + bucket.begin;
  const bool infinite = *task.infinite != 0;
  const auto first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  if (infinite || !task.rotates) {
    for (int i = first; i < bucket.values; i += step)
      values[i] = infinite ? std::numeric_limits<float>::quiet_NaN() : meaning.value(static_cast<uint32_t>(counts[i]));
    return;
  }
  float* const x = shared_memory<float>();
  transform(x, bucket.codes,
            [&](int, int i) { return i < bucket.codes ? meaning.value(static_cast<uint32_t>(counts[i])) : 0.0f; });
  if (first_of_warp() >= bucket.values) return;
  const float factor = normalization(bucket.codes);
  const WarpSigns signs(task.random, blockIdx.x, task.signs);
  for (int k = 0; k < rotated_per_thread; ++k) {
    const uint32_t sign = signs(k);
    const int i = rotated_index(k);
    if (i < bucket.values) values[i] = with_sign(x[i] * factor, sign);
  }
}

size_t block_bytes(const CountTask& task) {
  return task.rotates ? static_cast<size_t>(task.largest_bucket) * sizeof(float) : 0;
}

void launch_on_buckets(Stream& stream, const CountTask& task, size_t shared_bytes, void (*kernel)(CountTask)) {
  if (task.count == 0) return;
  launch(stream.queue(), {static_cast<unsigned>(task.count)}, {threads_of(task)}, shared_bytes, kernel, task);
}

}  // namespace

void prepare_counts(Stream& stream, const CountTask& task) {
  launch_on_buckets(stream, task, block_bytes(task), prepare_buckets);
}

void encode_counts(Stream& stream, const CountTask& task) {
  launch(stream.queue(), {1}, {256}, 0, look_for_infinite, task);
  launch_on_buckets(stream, task, 0, task.wide ? encode_buckets<int32_t> : encode_buckets<uint8_t>);
}

void decode_counts(Stream& stream, const CountTask& task) {
  launch_on_buckets(stream, task, block_bytes(task), task.wide ? decode_buckets<int32_t> : decode_buckets<uint8_t>);
}

}  // namespace nibble::cuda
