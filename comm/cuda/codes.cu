// A block for each bucket. Its values are read once, to registers or rotated to the block's memory; codes gather there
// as bytes, of which a thread then packs eight.
#include "comm/cuda/codes.hpp"

#include <limits>

#include "comm/cuda/larger_bits.hpp"
#include "comm/cuda/rotation.hpp"
#include "quant/arithmetic.hpp"
#include "tensor/cuda/kernel.hpp"
#include "tensor/cuda/square_lanes.hpp"

namespace nibble::cuda {
namespace {

using Grid = Codec::Grid;

constexpr int most_threads = 1024, most_held = most_threads * rotated_per_thread;
constexpr int most_codes = 256;

struct Smaller {
  __device__ float operator()(float a, float b) const { return b < a ? b : a; }
};
struct LargerNumber {
  __device__ float operator()(float a, float b) const { return b > a ? b : a; }
};

/// Of the block.
struct Bucket {
  int64_t first, message;  ///< value and byte of the run
  int values, codes;

  __device__ explicit Bucket(const CodedRun& run)
      : first(int64_t{blockIdx.x} * run.values), message(int64_t{blockIdx.x} * run.bytes) {
    const bool is_last = int64_t{blockIdx.x} + 1 == run.count;
    values = is_last ? run.last_values : run.values;
    codes = is_last ? run.last_codes : run.codes;
  }
};

/// Of the longest bucket.
int most_values(const CodedRun& run) { return run.count > 1 ? run.codes : run.last_codes; }

__device__ bool on(const void* address, int bytes) { return reinterpret_cast<uintptr_t>(address) % bytes == 0; }

__device__ float float_at(const uint8_t* from) {
  if (on(from, 4)) return *reinterpret_cast<const float*>(from);
  uint32_t bits = 0;
  for (int i = 0; i < 4; ++i) bits |= uint32_t{from[i]} << (8 * i);
  return simd::as<float>(bits);
}
__device__ void put_float(uint8_t* to, float value) {
  for (int i = 0; i < 4; ++i) to[i] = static_cast<uint8_t>(simd::as<uint32_t>(value) >> (8 * i));
}

/// Four numbers of a byte each -> their lowest bits side by side.
__device__ uint32_t gathered(uint32_t four, int bits) {
  return (four & 0xff) | (four >> 8 & 0xff) << bits | (four >> 16 & 0xff) << 2 * bits | four >> 24 << 3 * bits;
}
/// Packs eight codes, of which the first `count` are sent and the others are zero.
__device__ void put_codes(uint8_t* to, const uint32_t* eight, int count, int bits) {
  const int bytes = (count * bits + 7) / 8;
  const uint32_t low = gathered(eight[0], bits), high = gathered(eight[1], bits);
  if (bytes == 8 && on(to, 4)) {
    reinterpret_cast<uint32_t*>(to)[0] = low;
    reinterpret_cast<uint32_t*>(to)[1] = high;
    return;
  }
  const uint64_t packed = low | uint64_t{high} << 4 * bits;
  if (bytes == 4 && on(to, 4)) *reinterpret_cast<uint32_t*>(to) = static_cast<uint32_t>(packed);
  else if (bytes == 2 && on(to, 2)) *reinterpret_cast<uint16_t*>(to) = static_cast<uint16_t>(packed);
  else
    for (int i = 0; i < bytes; ++i) to[i] = static_cast<uint8_t>(packed >> (8 * i));
}
__device__ int code_at(const uint8_t* codes, int i, int bits) {
  const int begin = i * bits, shift = begin % 8;
  uint32_t word = codes[begin / 8];
  if (shift + bits > 8) word |= uint32_t{codes[begin / 8 + 1]} << 8;
  return static_cast<int>(word >> shift & ((1u << bits) - 1));
}

__device__ bool is_finite(float x) { return fabsf(x) <= std::numeric_limits<float>::max(); }
__device__ bool is_scale(float scale) { return scale >= 0 && is_finite(scale); }
__device__ bool bits_behind(const uint8_t* codes, int count, int bits) {
  const int end = count * bits;
  return end % 8 != 0 && codes[end / 8] >> (end % 8) != 0;
}

/// Codes under a range. A thread has the values for which a block of random words has numbers: eight that lie sixteen
/// apart. `held`: all threads together have the bucket; else it is read twice.
template <bool float8, bool stochastic, bool held>
__global__ void __launch_bounds__(most_threads, 1)
    encode_in_range(CodedRun run, const float* values, uint8_t* codes, unsigned long long* refused) {
  auto* const eights = shared_memory<uint32_t>();
  __shared__ uint32_t of_warps[warp_lanes];
  __shared__ float ends_of_warps[warp_lanes];
  constexpr ElementFormat e4m3 = formats::e4m3;
  const Bucket bucket(run);
  const float* const x = values + bucket.first;
  uint8_t* const message = codes + bucket.message;
  const int n = bucket.values, thread = static_cast<int>(threadIdx.x), sweep = 8 * static_cast<int>(blockDim.x);
  const int place = thread / 16 * 128 + thread % 16;  // in a sweep, of the thread's first value

  const float any = x[0];
  float v[8];
  const auto load = [&](int first) {
    NIBBLE_UNROLL
    for (int k = 0; k < 8; ++k) {
      const int i = first + place + 16 * k;
      v[k] = i < n ? x[i] : any;
    }
  };
  uint32_t most = 0;
  float low = any, high = any;
  for (int first = 0; first < n; first += sweep) {
    load(first);
    NIBBLE_UNROLL
    for (int k = 0; k < 8; ++k) {
      most = LargerBits()(most, simd::as<uint32_t>(v[k]) & 0x7fffffffu);
      low = Smaller()(low, v[k]);
      high = LargerNumber()(high, v[k]);
    }
  }
  most = over_block(most, of_warps, LargerBits());
  if (!encodable_magnitude(most)) {
    if (thread == 0) atomic_add(refused, 1);
    return;
  }
  float range = simd::as<float>(most), minimum = 0;
  if (run.has_minimum) {
    low = over_block(low, ends_of_warps, Smaller());
    range = over_block(high, ends_of_warps, LargerNumber()) - low;
    minimum = low + 0.0f;  // as the host's: of zeros the one without a sign
  }
  const float scale = scale_or_zero(range / (float8 ? e4m3.max : run.steps));
  if (thread == 0) {
    put_float(message, scale);
    if (run.has_minimum) put_float(message + 4, minimum);
  }
  const LevelsOf<OneLane> levels({scale, minimum, run.levels.offset, run.levels.last});
  const auto code_of = [&](float value, float uniform) -> uint32_t {
    if (float8) {
      if (scale == 0) return 0;
      return encode(stochastic ? round_stochastic(value / scale, uniform, e4m3) : round_nearest(value / scale, e4m3),
                    e4m3);
    }
    if (scale == 0) return static_cast<uint32_t>(run.levels.offset);
    return static_cast<uint32_t>(stochastic ? levels.stochastic(value, uniform) : levels.nearest(value));
  };
  auto* const bytes = reinterpret_cast<uint8_t*>(eights);
  for (int first = 0; first < n; first += sweep) {
    if (!held) load(first);
    PhiloxBlock random{};
    if (stochastic) random = words_of(run.random, blockIdx.x, run.rounding, first / 8 + thread);
    NIBBLE_UNROLL
    for (int k = 0; k < 8; ++k) {
      const uint32_t word = random[static_cast<size_t>(k / 2)];
      const float uniform = uniform_of<float>(k % 2 == 0 ? word & 0xffffu : word >> 16);
      bytes[place + 16 * k] = static_cast<uint8_t>(first + place + 16 * k < n ? code_of(v[k], uniform) : 0);
    }
    __syncthreads();
    if (const int begin = first + 8 * thread; begin < n)
      put_codes(message + run.scale_bytes + begin / 8 * run.bits, eights + 2 * thread, n - begin < 8 ? n - begin : 8,
                run.bits);
    if (!held) __syncthreads();
  }
}

/// Codes of rotated values for levels of normal ones. Sums over the bucket have the host's order, sixteen lanes, which
/// the first warp follows alone.
__global__ void __launch_bounds__(most_threads, 1)
    encode_normal(CodedRun run, const float* values, uint8_t* codes, unsigned long long* refused) {
  __shared__ uint32_t of_warps[warp_lanes];
  __shared__ float unit_levels[most_codes];
  __shared__ double square_of_all;
  const Bucket bucket(run);
  const float* const from = values + bucket.first;
  uint8_t* const message = codes + bucket.message;
  const int n = bucket.codes, padded = n < 8 ? 8 : n, thread = static_cast<int>(threadIdx.x);
  auto* const x = shared_memory<float>();
  auto* const eights = reinterpret_cast<uint32_t*>(x + padded);
  auto* const bytes = reinterpret_cast<uint8_t*>(eights);

  const float factor = normalization(n);
  const WarpSigns signs(run.random, blockIdx.x, run.signs);
  uint32_t most = 0;
  transform(x, n, [&](int k, int i) {
    const float value = i < bucket.values ? from[i] : 0.0f;
    most = LargerBits()(most, simd::as<uint32_t>(value) & 0x7fffffffu);
    return with_sign(value * factor, signs(k));
  });
  most = over_block(most, of_warps, LargerBits());
  if (!encodable_magnitude(most)) {
    if (thread == 0) atomic_add(refused, 1);
    return;
  }
  const bool first_warp = thread < static_cast<int>(warp_lanes);
  const int of_sixteen = thread % 16;
  if (first_warp) {
    const double sum = sum_of_square_lanes(thread < 16 ? lane_squares(n, [&](int64_t i) { return x[i]; }) : 0);
    if (thread == 0) square_of_all = sum;
  }
  for (int code = thread; code < 1 << run.bits; code += static_cast<int>(blockDim.x))
    unit_levels[code] = run.normal.unit_level(code);
  __syncthreads();
  const double square = square_of_all;
  const float deviation = scale_or_zero(static_cast<float>(sqrt(square / static_cast<double>(n))));
  const float per_deviation = 1 / deviation;
  const LevelsOf<OneLane> equal = run.normal.equal(deviation);
  NIBBLE_UNROLL
  for (int k = 0; k < rotated_per_thread; ++k) {
    const int i = rotated_index(k);
    if (i >= padded) continue;
    uint32_t code = 0;
    if (i < n) code = deviation == 0 ? 1u << (run.bits - 1) : run.normal.code(x[i], per_deviation, equal);
    bytes[i] = static_cast<uint8_t>(code);
  }
  __syncthreads();
  if (first_warp) {  // lanes 0 to 15: values times levels; the others: squares of levels
    double sum = 0;
    for (int i = of_sixteen; i < n; i += 16) {
      const double level = unit_levels[bytes[i]], other = thread < 16 ? static_cast<double>(x[i]) : level;
      sum += level * other;
    }
    sum = sum_of_square_lanes(sum);
    const double of_levels = of_lane(sum, 16);
    if (thread == 0)
      put_float(message, deviation == 0 ? 0.0f : static_cast<float>(run.unbiased ? square / sum : sum / of_levels));
  }
  for (int eight = thread; 8 * eight < n; eight += static_cast<int>(blockDim.x))
    put_codes(message + run.scale_bytes + eight * run.bits, eights + 2 * eight, n - 8 * eight < 8 ? n - 8 * eight : 8,
              run.bits);
}

template <bool float8>
__global__ void decode_in_range(CodedRun run, CodeMessages messages, float* values, unsigned long long* damaged) {
  constexpr int at_once = 4;
  constexpr ElementFormat e4m3 = formats::e4m3;
  const Bucket bucket(run);
  float* const to = values + bucket.first;
  const auto thread = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  bool wrong = false;
  for (int first = thread; first < bucket.values; first += at_once * step) {
    float sum[at_once] = {};
    for (int m = 0; m < messages.count; ++m) {
      const uint8_t* const message = messages.first + m * messages.stride + bucket.message;
      const uint8_t* const codes = message + run.scale_bytes;
      const float scale = float_at(message), minimum = run.has_minimum ? float_at(message + 4) : 0.0f;
      if (first == 0)
        wrong = wrong || !is_scale(scale) || !is_finite(minimum) || bits_behind(codes, bucket.codes, run.bits);
      const LevelsOf<OneLane> levels({scale, minimum, run.levels.offset, run.levels.last});
      NIBBLE_UNROLL
      for (int j = 0; j < at_once; ++j) {
        const int i = first + j * step;
        if (i >= bucket.values) continue;
        const int code = code_at(codes, i, run.bits);
        wrong = wrong || (float8 ? (code & 0x7f) >= e4m3.first_nan_code : code > run.levels.last);
        const float value = float8 ? decode<float>(static_cast<uint32_t>(code), e4m3) * scale : levels.value(code);
        sum[j] = m == 0 ? value : sum[j] + value;
      }
    }
    NIBBLE_UNROLL
    for (int j = 0; j < at_once; ++j)
      if (first + j * step < bucket.values) to[first + j * step] = sum[j];
  }
  if (wrong) atomic_add(damaged, 1);
}

__global__ void __launch_bounds__(most_threads, 1)
    decode_normal(CodedRun run, CodeMessages messages, float* values, unsigned long long* damaged) {
  const Bucket bucket(run);
  float* const to = values + bucket.first;
  auto* const x = shared_memory<float>();
  const int n = bucket.codes;
  const float factor = normalization(n);
  bool wrong = false;
  float sum[rotated_per_thread] = {};
  for (int m = 0; m < messages.count; ++m) {
    const uint8_t* const message = messages.first + m * messages.stride + bucket.message;
    const uint8_t* const codes = message + run.scale_bytes;
    const float scale = float_at(message);
    if (threadIdx.x == 0) wrong = wrong || !is_scale(scale) || bits_behind(codes, n, run.bits);
    const LevelsOf<OneLane> equal = run.normal.equal(scale);
    transform(x, n,
              [&](int, int i) { return i < n ? run.normal.value(code_at(codes, i, run.bits), scale, equal) : 0.0f; });
    // What a thread reads here it alone will write for the next message.
    if (first_of_warp() < bucket.values) {
      const WarpSigns signs(run.random, blockIdx.x, run.signs + static_cast<uint32_t>(m) * messages.signs_apart);
      NIBBLE_UNROLL
      for (int k = 0; k < rotated_per_thread; ++k) {
        const uint32_t sign = signs(k);
        const int i = rotated_index(k);
        if (i >= bucket.values) continue;
        const float value = with_sign(x[i] * factor, sign);
        sum[k] = m == 0 ? value : sum[k] + value;
      }
    }
  }
  NIBBLE_UNROLL
  for (int k = 0; k < rotated_per_thread; ++k)
    if (rotated_index(k) < bucket.values) to[rotated_index(k)] = sum[k];
  if (wrong) atomic_add(damaged, 1);
}

template <bool float8, bool stochastic>
void launch_in_range(Stream& stream, const CodedRun& run, const float* values, uint8_t* codes,
                     unsigned long long* refused) {
  const int most = most_values(run);
  const dim3 blocks{static_cast<unsigned>(run.count)};
  const unsigned threads = threads_of_eights(most < most_held ? most : most_held);
  const auto kernel =
      most <= most_held ? encode_in_range<float8, stochastic, true> : encode_in_range<float8, stochastic, false>;
  launch(stream.queue(), blocks, {threads}, 8 * threads, kernel, run, values, codes, refused);
}

}  // namespace

void encode_codes(Stream& stream, const CodedRun& run, const float* values, uint8_t* codes,
                  unsigned long long* refused) {
  if (run.grid == Grid::normal) {
    const auto padded = static_cast<size_t>(most_values(run) < 8 ? 8 : most_values(run));
    launch(stream.queue(), {static_cast<unsigned>(run.count)}, {threads_of_eights(most_values(run))},
           padded * (sizeof(float) + 1), encode_normal, run, values, codes, refused);
  } else if (run.grid == Grid::float8) {
    if (run.stochastic) launch_in_range<true, true>(stream, run, values, codes, refused);
    else launch_in_range<true, false>(stream, run, values, codes, refused);
  } else if (run.stochastic) {
    launch_in_range<false, true>(stream, run, values, codes, refused);
  } else {
    launch_in_range<false, false>(stream, run, values, codes, refused);
  }
}

void decode_codes(Stream& stream, const CodedRun& run, const CodeMessages& messages, float* values,
                  unsigned long long* damaged) {
  const dim3 blocks{static_cast<unsigned>(run.count)};
  const int most = most_values(run);
  if (run.grid == Grid::normal)
    return launch(stream.queue(), blocks, {threads_of_eights(most)}, static_cast<size_t>(most) * sizeof(float),
                  decode_normal, run, messages, values, damaged);
  const unsigned threads = threads_of_eights(most < 2048 ? most : 2048);
  launch(stream.queue(), blocks, {threads}, 0,
         run.grid == Grid::float8 ? decode_in_range<true> : decode_in_range<false>, run, messages, values, damaged);
}

}  // namespace nibble::cuda
