// Top-k of a whole vector: the k-th largest key is found in three digits, the highest first, by histograms of those
// keys that agree with it so far; then chunks of the vector count what they keep, and write it behind what earlier ones
// keep.
//
// Counts are integers, so that their order does not matter. What one kernel finds out stays in the device's memory for
// the next. The first pass reads residual and gradient and writes their sum, on which the others work.
#include <cassert>

#include "comm/cuda/fours.hpp"
#include "comm/cuda/top_k.hpp"
#include "comm/cut_value.hpp"
#include "comm/magnitude_key.hpp"
#include "tensor/cuda/counts.hpp"

namespace nibble::cuda {
namespace {

constexpr unsigned threads = 256;
constexpr int64_t tile_elements = int64_t{threads} * four;
static_assert(top_k_chunk % tile_elements == 0);

/// Of a key: exponent and four bits of the mantissa, then ten and nine bits.
struct Digit {
  int low_bit, bits;
};
constexpr Digit digits[] = {{19, 12}, {9, 10}, {0, 9}};
constexpr unsigned most_values = 1u << digits[0].bits;

/// Which keys are kept: all above `key`, and of those equal to it the first `ties`. While digits are missing, `key` has
/// zeros for them, and `ties` are kept of those that agree with it so far.
struct Threshold {
  int64_t ties;
  int32_t key;
};

/// How many of a chunk are above the threshold and equal to it; then of all before it.
struct ChunkCounts {
  int64_t above, equal;
};

/// In the device's memory.
struct Working {
  Threshold* threshold;
  unsigned long long* histogram;
  ChunkCounts* chunks;
  int64_t chunk_count;
};

/// Calls each(first, four) for all fours of the block's chunk, tile by tile, with the place of the first element; all
/// threads of the block have the same number of calls, some of them of nothing.
template <class Each>
__device__ void for_each_four(const float* vector, int64_t length, bool fits, Each each) {
  const int64_t begin = int64_t{blockIdx.x} * top_k_chunk;
  for (int64_t tile = begin; tile < begin + top_k_chunk && tile < length; tile += tile_elements) {
    const int64_t first = tile + int64_t{threadIdx.x} * four;
    each(first, load_four(vector + first, length - first, fits));
  }
}

__global__ void __launch_bounds__(threads) begin_selection(Working working, int64_t k) {
  for (unsigned i = threadIdx.x; i < most_values; i += threads) working.histogram[i] = 0;
  if (threadIdx.x == 0) *working.threshold = {k, 0};
}

/// `from` is the vector; or, in the first pass with feedback, the gradient, to which the residual is added.
__global__ void __launch_bounds__(threads)
    count_digits(const float* from, bool fits, int64_t length, const float* residual, float* sum, Digit digit,
                 Working working) {
  __shared__ uint32_t counts[most_values];
  const unsigned values = 1u << digit.bits;
  for (unsigned i = threadIdx.x; i < values; i += threads) counts[i] = 0;
  const auto known = static_cast<uint32_t>(working.threshold->key);
  const int above = digit.low_bit + digit.bits;
  __syncthreads();
  for_each_four(from, length, fits, [&](int64_t first, Four elements) {
    if (residual) {
      const Four before = load_four(residual + first, length - first, true);
      for (int i = 0; i < four; ++i) elements[i] = before[i] + elements[i];
      store_four(elements, sum + first, length - first);
    }
    for (int i = 0; i < four; ++i) {
      const auto key = static_cast<uint32_t>(magnitude_key(elements[i]));
      if (first + i < length && key >> above == known >> above) count_one(counts + (key >> digit.low_bit) % values);
    }
  });
  __syncthreads();
  for (unsigned i = threadIdx.x; i < values; i += threads)
    if (counts[i] > 0) atomic_add(working.histogram + i, counts[i]);
}

/// One block: finds the next digit of the threshold, and clears the histogram.
__global__ void __launch_bounds__(threads) narrow_threshold(Digit digit, Working working) {
  __shared__ int64_t shared[threads / warp_lanes];
  const int64_t ties = working.threshold->ties;
  const int own = (1 << digit.bits) / static_cast<int>(threads);
  const int highest = (1 << digit.bits) - 1 - own * static_cast<int>(threadIdx.x);
  int64_t count = 0;
  for (int value = highest; value > highest - own; --value) count += static_cast<int64_t>(working.histogram[value]);
  int64_t before = sum_before_thread(count, shared).before;
  const bool found = before < ties && ties <= before + count;  // of one thread, for there are at least so many keys
  for (int value = highest; value > highest - own; --value) {
    const auto here = static_cast<int64_t>(working.histogram[value]);
    working.histogram[value] = 0;
    if (found && before < ties && ties <= before + here)
      *working.threshold = {ties - before, working.threshold->key | value << digit.low_bit};
    before += here;
  }
}

/// Which of a thread's elements are above the threshold, and which equal to it.
struct Kinds {
  uint32_t above = 0, equal = 0;  ///< a bit for each

  __device__ Kinds(const Four& elements, int64_t present, int32_t threshold) {
    for (int i = 0; i < four; ++i) {
      const int32_t key = magnitude_key(elements[i]);
      if (i < present) above |= uint32_t{key > threshold} << i, equal |= uint32_t{key == threshold} << i;
    }
  }
  /// Both in one number, for sums over a tile.
  __device__ uint32_t counts() const {
    return static_cast<uint32_t>(ones_in(above)) | static_cast<uint32_t>(ones_in(equal)) << 16;
  }
};
static_assert(tile_elements < 1 << 16);

__global__ void __launch_bounds__(threads) count_kept(const float* vector, bool fits, int64_t length, Working working) {
  __shared__ uint32_t shared[threads / warp_lanes];
  const int32_t threshold = working.threshold->key;
  uint32_t counts = 0;
  for_each_four(vector, length, fits, [&](int64_t first, const Four& elements) {
    counts += Kinds(elements, length - first, threshold).counts();
  });
  counts = sum_before_thread(counts, shared).total;
  if (threadIdx.x == 0) working.chunks[blockIdx.x] = {counts & 0xffff, counts >> 16};
}
static_assert(top_k_chunk < 1 << 16, "counts of a chunk are added as those of a tile");

/// One block: counts of chunks become those of all before them.
__global__ void __launch_bounds__(threads) add_up_chunks(Working working) {
  __shared__ int64_t shared[2][threads / warp_lanes];
  ChunkCounts before{0, 0};
  for (int64_t first = 0; first < working.chunk_count; first += threads) {
    const int64_t chunk = first + threadIdx.x;
    const ChunkCounts own = chunk < working.chunk_count ? working.chunks[chunk] : ChunkCounts{0, 0};
    const SumBefore<int64_t> above = sum_before_thread(own.above, shared[0]),
                             equal = sum_before_thread(own.equal, shared[1]);
    if (chunk < working.chunk_count) working.chunks[chunk] = {before.above + above.before, before.equal + equal.before};
    before = {before.above + above.total, before.equal + equal.total};
  }
}

/// `rest` null: nothing stays.
__global__ void __launch_bounds__(threads) write_kept(const float* vector, bool fits, int64_t length, Wire wire,
                                                      SparseEntry* entries, float* rest, Working working) {
  __shared__ uint32_t shared[threads / warp_lanes];
  const Threshold threshold = *working.threshold;
  ChunkCounts before = working.chunks[blockIdx.x];
  for_each_four(vector, length, fits, [&](int64_t first, const Four& elements) {
    const Kinds kinds(elements, length - first, threshold.key);
    const SumBefore<uint32_t> sum = sum_before_thread(kinds.counts(), shared);
    int64_t above = before.above + (sum.before & 0xffff), equal = before.equal + (sum.before >> 16);
    for (int i = 0; i < four; ++i) {
      const bool larger = kinds.above >> i & 1, tie = kinds.equal >> i & 1;
      if (larger || (tie && equal < threshold.ties)) {
        const SentAndLeft both = cut(elements[i], wire);
        store_entry(entries + above + (equal < threshold.ties ? equal : threshold.ties), first + i, both.sent);
        if (rest) rest[first + i] = both.left;
      }
      above += larger, equal += tie;
    }
    before.above += sum.total & 0xffff, before.equal += sum.total >> 16;
  });
}

Working working_memory(void* memory, int64_t chunks) {
  auto* const histogram = static_cast<unsigned long long*>(memory);
  auto* const threshold = reinterpret_cast<Threshold*>(histogram + most_values);
  auto* const of_chunks = reinterpret_cast<ChunkCounts*>(threshold + 1);
  assert(reinterpret_cast<std::byte*>(of_chunks + chunks) - static_cast<std::byte*>(memory) ==
         static_cast<ptrdiff_t>(top_k_working_bytes({.of = Selection::Of::all}, chunks * top_k_chunk)));
  return {threshold, histogram, of_chunks, chunks};
}

}  // namespace

void top_k_of_all(Stream& stream, const TopKTask& task) {
  if (task.length == 0) return;
  const int64_t chunks = (task.length + top_k_chunk - 1) / top_k_chunk;
  const Working working = working_memory(task.working, chunks);
  const dim3 grid{static_cast<unsigned>(chunks)}, block{threads};
  Queue& queue = stream.queue();
  const float* const vector = task.residual ? task.rest : task.gradient;
  const bool fits = fours_fit(vector);
  launch(queue, {1}, block, 0, begin_selection, working, task.selection.entries(task.length));
  for (const Digit& digit : digits) {
    const bool first = &digit == digits;
    if (first)
      launch(queue, grid, block, 0, count_digits, task.gradient, fours_fit(task.gradient), task.length, task.residual,
             task.rest, digit, working);
    else launch(queue, grid, block, 0, count_digits, vector, fits, task.length, nullptr, nullptr, digit, working);
    launch(queue, {1}, block, 0, narrow_threshold, digit, working);
  }
  launch(queue, grid, block, 0, count_kept, vector, fits, task.length, working);
  launch(queue, {1}, block, 0, add_up_chunks, working);
  launch(queue, grid, block, 0, write_kept, vector, fits, task.length, task.wire, task.entries, task.rest, working);
}

}  // namespace nibble::cuda
