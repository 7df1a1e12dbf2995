// A block for each bucket of codes; what is rotated lies in the block's memory meanwhile.
#include "comm/cuda/correlated.hpp"

#include <limits>

#include "comm/bucket_codec.hpp"
#include "tensor/cuda/kernel.hpp"
#include "tensor/real.hpp"

namespace nibble::cuda {
namespace {

constexpr unsigned threads = 256;

struct LargerBits {
  __device__ uint32_t operator()(uint32_t a, uint32_t b) const { return a > b ? a : b; }
};

/// Words 4 group ... 4 group + 3 of a part of a bucket's stream.
__device__ PhiloxBlock words_of(const CountTask& task, int64_t bucket, uint32_t part, int group) {
  PhiloxBlock counter = task.random.counter((uint64_t{part} << 32) + static_cast<uint32_t>(group));
  counter[2] += static_cast<uint32_t>(bucket);
  return philox(counter, task.random.key());
}

/// Value i takes bit i of the part's words.
__device__ float with_sign(const CountTask& task, int64_t bucket, int i, float v) {
  const uint32_t word = words_of(task, bucket, task.signs, i / 128)[static_cast<size_t>(i % 128 / 32)];
  return simd::as<float>(simd::as<uint32_t>(v) ^ (word >> (i % 32) << 31));
}

__device__ float normalization(int n) { return static_cast<float>(1 / sqrt(static_cast<double>(n))); }

/// Sylvester's transform by ascending stride, not normalized, of a block's memory.
__device__ void transform(float* x, int n) {
  for (int h = 1; h < n; h *= 2) {
    __syncthreads();
    for (int pair = static_cast<int>(threadIdx.x); pair < n / 2; pair += static_cast<int>(blockDim.x)) {
      const int i = pair / h * 2 * h + pair % h;
      const float a = x[i], b = x[i + h];
      x[i] = a + b;
      x[i + h] = a - b;
    }
  }
  __syncthreads();
}

__global__ void prepare_buckets(CountTask task) {
  __shared__ uint32_t shared[warp_lanes];
  const CodedBucket bucket = task.buckets[blockIdx.x];
  float* const values = task.values + bucket.begin;
  const auto first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  float* x = values;
  if (task.rotates) {
    x = shared_memory<float>();
    const float factor = normalization(bucket.codes);
    for (int i = first; i < bucket.codes; i += step)
      x[i] = with_sign(task, blockIdx.x, i, (i < bucket.values ? values[i] : 0.0f) * factor);
    transform(x, bucket.codes);
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
  return LevelGrid::of(task.bits, words_of(task, bucket, task.first_levels, 0)[0]);
}

template <class Count>
__global__ void encode_buckets(CountTask task) {
  const CodedBucket bucket = task.buckets[blockIdx.x];
  const float range = task.ranges[blockIdx.x];
  const CorrelatedLevels levels = grid_of(task, blockIdx.x).within(range, task.bits);
  const float* const values = task.values + bucket.begin;
  Count* const counts = static_cast<Count*>(task.counts) + bucket.begin;
  for (auto group = static_cast<int>(threadIdx.x); 4 * group < bucket.codes; group += static_cast<int>(blockDim.x)) {
    const PhiloxBlock offsets = words_of(task, blockIdx.x, task.offsets, group),
                      thresholds = words_of(task, blockIdx.x, task.stratum.thresholds, group);
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
__global__ void decode_buckets(CountTask task) {
  const CodedBucket bucket = task.buckets[blockIdx.x];
  const CountMeaning meaning =
      CountMeaning::of(grid_of(task, blockIdx.x), task.ranges[blockIdx.x], static_cast<int>(task.stratum.ranks));
  const Count* const counts = static_cast<const Count*>(task.counts) + bucket.begin;
  float* const values = task.values + bucket.begin;
  const bool infinite = *task.infinite != 0;
  const auto first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  float* const x = task.rotates ? shared_memory<float>() : values;
  for (int i = first; i < bucket.codes; i += step)
    x[i] = infinite ? std::numeric_limits<float>::quiet_NaN() : meaning.value(static_cast<uint32_t>(counts[i]));
  if (!task.rotates || infinite) {
    if (task.rotates)
      for (int i = first; i < bucket.values; i += step) values[i] = x[i];
    return;
  }
  transform(x, bucket.codes);
  const float factor = normalization(bucket.codes);
  for (int i = first; i < bucket.values; i += step) values[i] = with_sign(task, blockIdx.x, i, x[i] * factor);
}

size_t block_bytes(const CountTask& task) {
  return task.rotates ? static_cast<size_t>(task.largest_bucket) * sizeof(float) : 0;
}

void launch_on_buckets(Stream& stream, const CountTask& task, size_t shared_bytes, void (*kernel)(CountTask)) {
  if (task.count == 0) return;
  launch(stream.queue(), {static_cast<unsigned>(task.count)}, {threads}, shared_bytes, kernel, task);
}

}  // namespace

void prepare_counts(Stream& stream, const CountTask& task) {
  launch_on_buckets(stream, task, block_bytes(task), prepare_buckets);
}

void encode_counts(Stream& stream, const CountTask& task) {
  launch(stream.queue(), {1}, {threads}, 0, look_for_infinite, task);
  launch_on_buckets(stream, task, 0, task.wide ? encode_buckets<int32_t> : encode_buckets<uint8_t>);
}

void decode_counts(Stream& stream, const CountTask& task) {
  launch_on_buckets(stream, task, block_bytes(task), task.wide ? decode_buckets<int32_t> : decode_buckets<uint8_t>);
}

}  // namespace nibble::cuda
