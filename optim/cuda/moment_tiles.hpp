// How kernels of a device read and write moments, whatever they are kept in: tiles as f32, with the host's bits
// (optim/moment_codes.hpp has the codes, optim/cpu/moment_pack_body.hpp the host's part).
//
// A kernel chooses a format once for a block of threads, reads all that it needs, and then computes: while a format's
// arithmetic runs, nothing is left to be asked for.
#pragma once

#include <bit>

#include "optim/cuda/tiles.hpp"
#include "optim/moment_codes.hpp"

namespace nibble::cuda {

/// One value: what moment_codes.hpp asks for.
struct OneLane {
  using floats = float;
  using integers = int32_t;

  __device__ static float absolute(float v) { return with_bits(bits(v) & 0x7fffffff); }
  __device__ static int32_t bits(float v) { return std::bit_cast<int32_t>(v); }
  __device__ static float with_bits(int32_t v) { return std::bit_cast<float>(v); }
  __device__ static int32_t whole(float v) { return static_cast<int32_t>(v); }
  __device__ static float number(int32_t v) { return static_cast<float>(v); }
  __device__ static int32_t one_where(bool condition) { return condition; }

  /// By choices among constants, which cost no memory.
  template <const std::array<float, 8>& table, int first = 0, int count = 8>
  __device__ static float pick(int32_t index) {
    if constexpr (count == 1) {
      constexpr float entry = table[first];
      return entry;
    } else {
      constexpr int half = count / 2;
      const float low = pick<table, first, half>(index), high = pick<table, first + half, half>(index);
      return (index & half) != 0 ? high : low;
    }
  }
};

/// A moment of one tensor in one step.
struct DeviceMoment {
  MomentKind kind;
  MomentPrecision precision;
  void* values;
  float* scales;
  int64_t first;  ///< element of the logical tensor
  RandomStream random;

  DeviceMoment(const Moment& moment, int64_t step)
      : kind(moment.kind),
        precision(moment.precision),
        values(moment.values.data),
        scales(moment.scales.on_device<float>()),
        first(moment.first),
        random(moment.random(step)) {}

  /// Sixteen random bits for each element of the tile that begins with `begin` of what this rank has: element e of the
  /// logical tensor has half e % 8 of Philox block e / 8. A lane has half a block in each half of the tile; it draws
  /// one block and exchanges with its neighbour, who has drawn the other.
  __device__ Share<int32_t> draws(int64_t begin) const {
    constexpr int64_t of_block = 8, blocks_of_half = tile_elements / 2 / of_block;
    const bool odd = lane() % 2 != 0;
    const int64_t block = (first + begin) / of_block + lane() / 2 + (odd ? blocks_of_half : 0);
    const PhiloxBlock words = random.block(static_cast<uint64_t>(kind) << 32 | static_cast<uint64_t>(block));
    const uint64_t low = words[0] | static_cast<uint64_t>(words[1]) << 32,
                   high = words[2] | static_cast<uint64_t>(words[3]) << 32;
    const uint64_t own = odd ? high : low, other = of_lane(odd ? low : high, lane() ^ 1u);
    const uint64_t halves[2] = {odd ? other : own, odd ? own : other};
    Share<int32_t> bits;
    for (int j = 0; j < lane_elements; ++j)
      bits[j] = static_cast<int32_t>(halves[j / quad] >> (16 * (j % quad)) & 0xffff);
    return bits;
  }
};

// Formats. All lanes of a warp read a tile of `count` elements from `begin` on, as it is kept; make f32 of it; and
// write the tile, rounded. What is behind `count` is 0, when it was read and, since no gradient is there, when it is
// written.

struct AsF32 {
  using Kept = Share<float>;

  __device__ static Kept read(const DeviceMoment& moment, int64_t begin, int count) {
    return load(static_cast<const float*>(global(moment.values)) + begin, count);
  }
  __device__ static Share<float> unpacked(const Kept& kept) { return kept; }
  __device__ static void write(const DeviceMoment& moment, int64_t begin, int count, const Share<float>& values) {
    store(static_cast<float*>(global(moment.values)) + begin, count, values);
  }
};

struct AsBf16 {
  using Kept = Share<bf16>;

  __device__ static Kept read(const DeviceMoment& moment, int64_t begin, int count) {
    return load(static_cast<const bf16*>(global(moment.values)) + begin, count);
  }
  __device__ static Share<float> unpacked(const Kept& kept) { return converted<float>(kept); }
  __device__ static void write(const DeviceMoment& moment, int64_t begin, int count, const Share<float>& values) {
    const Share<int32_t> drawn = moment.draws(begin);
    Share<bf16> rounded;
    for (int j = 0; j < lane_elements; ++j)
      rounded[j].bits = static_cast<uint16_t>(stochastic_bf16<OneLane>(values[j], drawn[j]) >> 16);
    store(static_cast<bf16*>(global(moment.values)) + begin, count, rounded);
  }
};

/// `at_random`: to one of the two codes around a value, so that its mean is right.
template <class Code, bool at_random = false>
struct AsCodes {
  using Storage = typename Code::Storage;
  struct Kept {
    Share<Storage> codes;
    float scales[2];  ///< of the lane's neighbours in each half
  };

  __device__ static Kept read(const DeviceMoment& moment, int64_t begin, int count) {
    Kept kept;
    for (int half = 0; half < 2; ++half) {
      const float* const scale = scale_of(moment, begin, count, half);
      kept.scales[half] = scale ? *scale : 0.0f;
    }
    kept.codes = load(static_cast<const Storage*>(global(moment.values)) + begin, count);
    return kept;
  }

  /// Behind the end scales are 0.
  __device__ static Share<float> unpacked(const Kept& kept) {
    Share<float> values;
    for (int j = 0; j < lane_elements; ++j) values[j] = Code::decode(kept.codes[j]) * kept.scales[j / quad];
    return values;
  }

  __device__ static void write(const DeviceMoment& moment, int64_t begin, int count, const Share<float>& values) {
    float scales[2];
    find_scales(values, count, scales);
    Share<Storage> codes;
    order_lanes();  // neighbours have read the scales that one of them replaces
    for (int half = 0; half < 2; ++half) {
      float* const to = scale_of(moment, begin, count, half);
      if (to && place_of(half) % Code::block == 0) *to = scales[half];
      scales[half] = 1 / scales[half];
    }
    if constexpr (at_random) {
      const Share<int32_t> drawn = moment.draws(begin);
      for (int j = 0; j < lane_elements; ++j)
        codes[j] = static_cast<Storage>(Code::encode(values[j], scales[j / quad], uniform<OneLane>(drawn[j])));
    } else {
      for (int j = 0; j < lane_elements; ++j)
        codes[j] = static_cast<Storage>(Code::encode(values[j], scales[j / quad]));
    }
    store(static_cast<Storage*>(global(moment.values)) + begin, count, codes);
  }

 private:
  /// Null behind the end.
  __device__ static float* scale_of(const DeviceMoment& moment, int64_t begin, int count, int half) {
    return place_of(half) < count ? global(moment.scales) + (begin + place_of(half)) / Code::block : nullptr;
  }

  __device__ static void find_scales(const Share<float>& values, int count, float (&scales)[2]) {
    constexpr bool one_block = Code::block == tile_elements;
    constexpr unsigned lanes = one_block ? warp_lanes : Code::block / quad;
    const auto larger = [](float a, float b) { return a > b ? a : b; };
    float most[2] = {};
    for (int j = 0; j < lane_elements; ++j)
      if (place_of(j / quad) + j % quad < count) most[j / quad] = larger(OneLane::absolute(values[j]), most[j / quad]);
    if constexpr (one_block) most[0] = larger(most[0], most[1]);
    for (int half = 0; half < (one_block ? 1 : 2); ++half)
      for (unsigned distance = lanes / 2; distance > 0; distance /= 2)
        most[half] = larger(most[half], of_lane(most[half], lane() ^ distance));
    if constexpr (one_block) most[1] = most[0];
    float largest = Code::largest;
    if constexpr (at_random) largest = Code::top;  // whose negative is a value, too
    for (int half = 0; half < 2; ++half) scales[half] = code_scale<OneLane>(most[half], largest);
  }
};

template <MomentKind kind>
struct CodesOf {
  using Format = AsCodes<DynamicCode<OneLane, true>>;
};
template <>
struct CodesOf<MomentKind::second> {
  using Format = AsCodes<DynamicCode<OneLane, false>>;
};
template <>
struct CodesOf<MomentKind::slow> {
  using Format = AsCodes<DynamicCode<OneLane, true>, true>;
};
template <>
struct CodesOf<MomentKind::matrix_momentum> {
  using Format = AsCodes<LinearCode<OneLane>>;
};

template <MomentKind kind, MomentPrecision precision>
using FormatOf =
    std::conditional_t<precision == MomentPrecision::f32, AsF32,
                       std::conditional_t<precision == MomentPrecision::bf16, AsBf16, typename CodesOf<kind>::Format>>;

/// body(precision), of a type that is constant.
template <class Body>
__device__ void with_precision(MomentPrecision precision, Body&& body) {
  using enum MomentPrecision;
  if (precision == f32) body(std::integral_constant<MomentPrecision, f32>());
  else if (precision == bf16) body(std::integral_constant<MomentPrecision, MomentPrecision::bf16>());
  else body(std::integral_constant<MomentPrecision, eight_bit>());
}

/// body(format), of the moment.
template <class Body>
__device__ void with_format(const DeviceMoment& moment, Body&& body) {
  with_precision(moment.precision, [&](auto precision) {
    if constexpr (precision != MomentPrecision::eight_bit) body(FormatOf<MomentKind::first, precision>());
    else if (moment.kind == MomentKind::second) body(FormatOf<MomentKind::second, precision>());
    else if (moment.kind == MomentKind::slow) body(FormatOf<MomentKind::slow, precision>());
    else if (moment.kind == MomentKind::matrix_momentum) body(FormatOf<MomentKind::matrix_momentum, precision>());
    else body(FormatOf<MomentKind::first, precision>());
  });
}

}  // namespace nibble::cuda
