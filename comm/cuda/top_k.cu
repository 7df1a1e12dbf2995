// Top-k of buckets: a warp for each, whose lanes hold sixteen elements in registers, so that memory is read and written
// once.
//
// The k-th largest key is searched by halving an interval. Below k = 32 the largest of each lane comes first, of which
// one vote of the warp counts how many reach a key; k of them reach the one that is found, and where no other element
// does, as with most buckets of few kept elements, that is all. Else all elements are counted, in 42 instructions, from
// that key on, or in an interval below the largest that grows until k are in it; and again until exactly k are. Of
// normal values that takes a warp some 490 instructions a bucket at k = 4, 610 at k = 8 and 1000 at k = 256 (by the
// compiler's output for sm_90a), while an H200 moves the bucket's 6 KiB in the time of about 1200.
#include "comm/cuda/top_k.hpp"

#include "comm/cuda/fours.hpp"
#include "comm/cut_value.hpp"
#include "comm/magnitude_key.hpp"
#include "comm/sparse_wire.hpp"
#include "tensor/cuda/counts.hpp"

namespace nibble::cuda {
namespace {

constexpr unsigned threads = 256;
constexpr int fours = 4;  ///< of a lane
constexpr int held = fours * four;
static_assert(held * int{warp_lanes} == bucket_elements);
constexpr int32_t no_key = -1;  ///< below that of every element

/// The lane's element i of a bucket is the bucket's element position(i): fours of neighbouring lanes are neighbours.
__device__ int position(int i) {
  return (i / four * static_cast<int>(warp_lanes) + static_cast<int>(lane())) * four + i % four;
}

/// The lane's elements of a bucket. A whole one is moved by fours and lies on 16 bytes; of another the first n are
/// there.
template <bool whole>
__device__ void load_bucket(const float* bucket, int n, float (&values)[held]) {
  if constexpr (whole) {
    NIBBLE_UNROLL
    for (int j = 0; j < fours; ++j) {
      const Four loaded = *reinterpret_cast<const Four*>(bucket + position(four * j));
      for (int i = 0; i < four; ++i) values[four * j + i] = loaded[i];
    }
  } else {
    NIBBLE_UNROLL
    for (int i = 0; i < held; ++i) values[i] = position(i) < n ? bucket[position(i)] : 0.0f;
  }
}
template <bool whole>
__device__ void store_bucket(const float (&values)[held], float* bucket, int n) {
  if constexpr (whole) {
    NIBBLE_UNROLL
    for (int j = 0; j < fours; ++j) {
      Four stored;
      for (int i = 0; i < four; ++i) stored[i] = values[four * j + i];
      *reinterpret_cast<Four*>(bucket + position(four * j)) = stored;
    }
  } else {
    NIBBLE_UNROLL
    for (int i = 0; i < held; ++i)
      if (position(i) < n) bucket[position(i)] = values[i];
  }
}

/// 1 where key < bound, both from no_key on.
__device__ uint32_t is_below(int32_t key, int32_t bound) { return static_cast<uint32_t>(key - bound) >> 31; }

/// Bit i: whether key i reaches a bound.
__device__ uint32_t reaching_mask(const int32_t (&keys)[held], int32_t bound) {
  uint32_t below = 0;
  NIBBLE_UNROLL
  for (int i = held - 1; i >= 0; --i) below = below << 1 | is_below(keys[i], bound);
  return ~below & ((1u << held) - 1);
}

struct Bound {
  int32_t key;
  bool exact;  ///< k keys reach it
};

/// A key that exactly k reach, or the largest that at least k do. They reach `least` and fewer reach `above`;
/// count(key) is how many reach a key.
template <class Count>
__device__ Bound highest_reached(int32_t least, int32_t above, int k, Count count) {
  while (above - least > 1) {
    const int32_t middle = least + (above - least) / 2;
    const int reached = count(middle);
    if (reached == k) return {middle, true};
    if (reached > k) least = middle;
    else above = middle;
  }
  return {least, false};
}

/// Of more than k keys of a bucket.
__device__ Bound bound_of_kept(const int32_t (&keys)[held], int k) {
  const auto reaching = [&](int32_t key) {
    uint32_t below = 0;
    NIBBLE_UNROLL
    for (int i = 0; i < held; ++i) below += is_below(keys[i], key);
    return static_cast<int>(bucket_elements) - sum_of_lanes(static_cast<int32_t>(below));
  };
  int32_t own = keys[0];
  NIBBLE_UNROLL
  for (int i = 1; i < held; ++i) own = keys[i] > own ? keys[i] : own;
  const int32_t most = largest_of_lanes(own);
  int32_t least = 0, above = most + 1;
  if (k < static_cast<int>(warp_lanes)) {
    const int32_t smallest = smallest_of_lanes(own);
    least = highest_reached(smallest > 0 ? smallest : 0, above, k, [&](int32_t key) {
              return ones_in(votes(own >= key));
            }).key;
    if (reaching(least) == k) return {least, true};
  } else {
    constexpr int half_octave = 22;
    for (int bit = half_octave; bit < key_bits && 1 << bit < most; ++bit) {
      const int32_t key = most - (1 << bit);
      if (reaching(key) >= k) {
        least = key;
        break;
      }
      above = key;
    }
  }
  return highest_reached(least, above, k, reaching);
}

/// Where the elements of `mask` stand among those of all lanes: for each four of the lane, how many stand before it.
struct Places {
  int before[fours];

  __device__ explicit Places(uint32_t mask) {
    // A byte for each four of the lanes: there are at most 128.
    uint32_t own = 0;
    NIBBLE_UNROLL
    for (int j = 0; j < fours; ++j) own |= static_cast<uint32_t>(ones_in(mask >> four * j & 0xfu)) << 8 * j;
    const uint32_t up_to = sum_up_to_lane(own), total = of_lane(up_to, warp_lanes - 1);
    int of_earlier = 0;
    NIBBLE_UNROLL
    for (int j = 0; j < fours; ++j) {
      before[j] = of_earlier + static_cast<int>((up_to - own) >> 8 * j & 0xffu);
      of_earlier += static_cast<int>(total >> 8 * j & 0xffu);
    }
  }
};

/// Calls each(i, place) for the lane's elements of `mask`, with its place among those of all lanes.
template <class Each>
__device__ void for_each_of(uint32_t mask, Each each) {
  const Places places(mask);
  NIBBLE_UNROLL
  for (int j = 0; j < fours; ++j) {
    int place = places.before[j];
    NIBBLE_UNROLL
    for (int i = four * j; i < four * (j + 1); ++i)
      if (mask >> i & 1) each(i, place++);
  }
}

/// Bit i: whether the lane's element i is one of the k < n largest.
__device__ uint32_t kept_of(const int32_t (&keys)[held], int k) {
  const Bound bound = bound_of_kept(keys, k);
  const uint32_t reaching = reaching_mask(keys, bound.key);
  if (bound.exact) return reaching;
  uint32_t kept = reaching_mask(keys, bound.key + 1);
  const int ties = k - sum_of_lanes(ones_in(kept));
  for_each_of(reaching & ~kept, [&](int i, int place) { kept |= uint32_t{place < ties} << i; });
  return kept;
}

/// Whole buckets of vectors on 16 bytes, or any. The first is number `first_bucket` of the vector.
template <bool whole, bool feeds_back>
__global__ void __launch_bounds__(threads) select_in_buckets(TopKTask task, int64_t first_bucket, int64_t buckets) {
  const int64_t number = (int64_t{blockIdx.x} * threads + threadIdx.x) / warp_lanes;
  if (number >= buckets) return;  // all lanes of the warp
  const int64_t bucket = first_bucket + number, first = bucket * bucket_elements, left = task.length - first;
  const int n = whole || left >= bucket_elements ? static_cast<int>(bucket_elements) : static_cast<int>(left);
  float values[held];
  load_bucket<whole>(task.gradient + first, n, values);
  if constexpr (feeds_back) {
    float residual[held];
    load_bucket<whole>(task.residual + first, n, residual);
    NIBBLE_UNROLL
    for (int i = 0; i < held; ++i) values[i] = residual[i] + values[i];
  }
  int32_t keys[held];
  NIBBLE_UNROLL
  for (int i = 0; i < held; ++i) keys[i] = whole || position(i) < n ? magnitude_key(values[i]) : no_key;

  const auto k = static_cast<int>(task.selection.k);
  const uint32_t kept = k < n ? kept_of(keys, k) : reaching_mask(keys, 0);
  SparseEntry* const entries = task.entries + bucket * k;
  for_each_of(kept, [&](int i, int place) {
    const SentAndLeft both = cut(values[i], task.wire);
    store_entry(entries + place, first + position(i), both.sent);
    values[i] = both.left;
  });
  if constexpr (feeds_back) store_bucket<whole>(values, task.rest + first, n);
}

__global__ void __launch_bounds__(threads) put(const SparseEntry* entries, int64_t count, float* to) {
  const int64_t i = int64_t{blockIdx.x} * threads + threadIdx.x;
  if (i < count) to[entries[i].index] = entries[i].value;
}

}  // namespace

void top_k_of_buckets(Stream& stream, const TopKTask& task) {
  const auto select = [&](auto whole, int64_t first, int64_t buckets) {
    if (buckets == 0) return;
    constexpr int64_t of_block = threads / warp_lanes;
    const dim3 blocks{static_cast<unsigned>((buckets + of_block - 1) / of_block)};
    const auto kernel = task.residual ? select_in_buckets<whole(), true> : select_in_buckets<whole(), false>;
    launch(stream.queue(), blocks, {threads}, 0, kernel, task, first, buckets);
  };
  const int64_t buckets = buckets_of(task.length);
  const int64_t whole = fours_fit(task.gradient) ? task.length / bucket_elements : 0;
  select(std::true_type(), 0, whole);
  select(std::false_type(), whole, buckets - whole);
}

void put_entries(Stream& stream, const SparseEntry* entries, int64_t count, float* to) {
  if (count == 0) return;
  launch(stream.queue(), {static_cast<unsigned>((count + threads - 1) / threads)}, {threads}, 0, put, entries, count,
         to);
}

}  // namespace nibble::cuda
