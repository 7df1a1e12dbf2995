#include "comm/bucket_codec.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "comm/bit_packing.hpp"
#include "comm/code_error.hpp"
#include "comm/normal_levels.hpp"
#include "quant/arithmetic.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

using Grid = Codec::Grid;
using Range = Codec::Range;
using Rounding = Codec::Rounding;
using simd::f32x;
using simd::lanes;
using simd::u32x;

/// Below 2^-100 a scale's reciprocal would leave f32, and a gradient is zero.
constexpr float smallest_scale = 0x1p-100f;
float scale_or_zero(float scale) { return scale < smallest_scale ? 0.0f : scale; }

/// No finite value is above; a NaN's bits are.
uint32_t largest_magnitude_bits(std::span<const float> values) {
  u32x most{};
  simd::for_each_group(static_cast<int64_t>(values.size()), [&](int64_t i, int64_t count) {
    const u32x bits = bits_of(magnitude(simd::load_n(values.data() + i, count)));
    most = bits > most ? bits : most;
  });
  uint32_t largest = 0;
  for (int lane = 0; lane < lanes; ++lane) largest = std::max(largest, uint32_t{most[lane]});
  return largest;
}
constexpr float encodable_below = 0x1p100f;

[[noreturn]] void refuse_values(std::span<const float> values, const CodeSource& source) {
  const auto first = std::ranges::find_if(values, [](float x) { return !(std::abs(x) < encodable_below); });
  throw Error({.kind = ErrorKind::numerics,
               .what = "a gradient has a value that cannot be encoded",
               .where = fmt::format("rank {}, step {}, bucket {}, value {}", source.rank, source.step,
                                    source.first_bucket, first - values.begin()),
               .seen = fmt::format("{}", *first),
               .allowed = "finite values below 2^100",
               .next = "lower the learning rate or clip gradients"});
}

struct Extremes {
  float smallest, largest;
};
Extremes extremes(std::span<const float> x) {
  f32x low = simd::splat(x[0]), high = low;
  simd::for_each_group(static_cast<int64_t>(x.size()), [&](int64_t i, int64_t count) {
    const f32x v = simd::load_n(x.data() + i, count, x[0]);
    low = v < low ? v : low;
    high = v > high ? v : high;
  });
  return {-simd::max(-low), simd::max(high)};
}

double dot(std::span<const float> x, std::span<const float> y) {
  simd::f64x sum{};
  simd::for_each_group(static_cast<int64_t>(x.size()), [&](int64_t i, int64_t count) {
    sum += simd::widen(simd::load_n(x.data() + i, count)) * simd::widen(simd::load_n(y.data() + i, count));
  });
  return simd::sum(sum);
}

/// Where the levels lie, but for the scale that the message carries.
EqualLevels equal_levels(const Codec& codec) {
  const int most = (1 << codec.bits) - 1;
  if (codec.grid == Grid::sign_and_magnitude) return {.offset = static_cast<float>(most / 2), .last = most - 1};
  if (codec.range == Range::extremes) return {.last = most};
  return {.offset = static_cast<float>(most) / 2, .last = most};
}
/// From the middle to the last level, in steps.
float steps_to_end(const Codec& codec, const EqualLevels& levels) {
  return static_cast<float>(levels.last) - (codec.range == Range::extremes ? 0 : levels.offset);
}

float from_bytes(std::span<const std::byte> bytes) {
  float value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}
void to_bytes(float value, std::span<std::byte> bytes) { std::memcpy(bytes.data(), &value, sizeof value); }

/// A bucket's message, apart.
template <class Bytes>
struct Message {
  Bytes scales, codes;
  Message(const Codec& codec, Bytes bytes)
      : scales(bytes.first(codec.scale_bytes())), codes(bytes.subspan(codec.scale_bytes())) {}
};

EqualLevels normal_equal_levels(int bits, float scale) {
  const int half = 1 << (bits - 1);
  return {.step = normal_spacing(bits) * scale, .offset = static_cast<float>(half) - 0.5f, .last = 2 * half - 1};
}
/// Bits up to which normal_levels has a table.
constexpr int bits_of_table = 4;

void decode_table(std::span<const float> of_code, const uint8_t* codes, std::span<float> x) {
  for (size_t i = 0; i < x.size(); ++i) x[i] = of_code[codes[i]];
}

void decode_normal(const CodeKernels& kernels, int bits, float scale, const uint8_t* codes, std::span<float> x) {
  if (bits > bits_of_table) return kernels.decode_levels(normal_equal_levels(bits, scale), codes, x);
  const std::span<const float> positive = normal_levels(bits);
  const size_t half = positive.size();
  float of_code[1 << bits_of_table];
  for (size_t i = 0; i < half; ++i) {
    of_code[half + i] = scale * positive[i];
    of_code[half - 1 - i] = -of_code[half + i];
  }
  decode_table(of_code, codes, x);
}

/// Writes the codes, and returns what multiplies their levels.
float encode_normal_bucket(const CodeKernels& kernels, const Codec& codec, std::span<const float> z, uint8_t* codes,
                           std::span<float> levels) {
  const double square = dot(z, z), deviation = std::sqrt(square / static_cast<double>(z.size()));
  const float scale = scale_or_zero(static_cast<float>(deviation));
  if (scale == 0) {
    std::memset(codes, 1 << (codec.bits - 1), z.size());
    return 0;
  }
  if (codec.bits > bits_of_table) kernels.encode_nearest(normal_equal_levels(codec.bits, scale), z, codes);
  else kernels.encode_normal(codec.bits, 1 / scale, z, codes);
  decode_normal(kernels, codec.bits, 1, codes, levels);
  const double product = dot(z, levels);
  return static_cast<float>(codec.scale == Codec::Scale::unbiased ? square / product : product / dot(levels, levels));
}

}  // namespace

bool encodable(std::span<const float> values) { return largest_magnitude_bits(values) < bits_of(encodable_below); }

BucketCodec::BucketCodec(const Codec& codec, Isa isa)
    : codec_(codec),
      kernels_(code_kernels(isa)),
      values_(static_cast<size_t>(2 * codec.bucket)),
      codes_((static_cast<size_t>(codec.bucket) + 127) / 128 * 128) {
  if (codec.range == Range::largest_of_ranks || codec.range == Range::distance)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "this codec needs to know something of the other ranks",
                 .seen = std::string(codec.name),
                 .allowed = "qsgd, maxmin, independent, drive, eden, fp8"});
}

std::span<const float> BucketCodec::rotated(std::span<const float> values, const CodeSource& source, int64_t bucket) {
  if (codec_.rotation == Codec::Rotation::none) return values;
  const std::span<float> z(values_.data(), static_cast<size_t>(codec_.codes_of(static_cast<int64_t>(values.size()))));
  std::ranges::copy(values, z.begin());
  std::ranges::fill(z.subspan(values.size()), 0.0f);
  const bool own = codec_.rotation == Codec::Rotation::of_rank;
  kernels_.rotate(z, source.stream(bucket), own ? source.own_signs() : source.shared_signs());
  return z;
}

void BucketCodec::encode(std::span<const float> values, const CodeSource& source, std::span<std::byte> message) {
  check_message_size(codec_, static_cast<int64_t>(values.size()), message.size(), source);
  for (int64_t bucket = 0; !values.empty(); ++bucket) {
    const std::span<const float> here = values.first(std::min(values.size(), static_cast<size_t>(codec_.bucket)));
    values = values.subspan(here.size());
    const size_t bytes = codec_.bytes_of_bucket(static_cast<int64_t>(here.size()));
    const Message to(codec_, message.first(bytes));
    message = message.subspan(bytes);

    const uint32_t largest_bits = largest_magnitude_bits(here);
    if (largest_bits >= bits_of(encodable_below)) refuse_values(here, source.from_bucket(bucket));
    const float largest = simd::as<float>(largest_bits);
    const std::span<const float> x = rotated(here, source, bucket);
    const std::span<uint8_t> codes(codes_.data(), x.size());
    const RandomStream stream = source.stream(bucket);
    if (codec_.grid == Grid::float8) {
      const float scale = scale_or_zero(largest / formats::e4m3.max);
      kernels_.encode_float8(scale, codec_.rounding, x, stream, source.rounding(), codes.data());
      to_bytes(scale, to.scales);
    } else if (codec_.grid == Grid::normal) {
      const std::span<float> levels(&values_[static_cast<size_t>(codec_.bucket)], x.size());
      to_bytes(encode_normal_bucket(kernels_, codec_, x, codes.data(), levels), to.scales);
    } else {
      EqualLevels levels = equal_levels(codec_);
      const Extremes ends = codec_.range == Range::extremes ? extremes(x) : Extremes{0, largest};
      const float range =
          codec_.range == Range::norm ? static_cast<float>(std::sqrt(dot(x, x))) : ends.largest - ends.smallest;
      levels.step = scale_or_zero(range / steps_to_end(codec_, levels));
      levels.minimum = ends.smallest;
      to_bytes(levels.step, to.scales);
      if (codec_.range == Range::extremes) to_bytes(levels.minimum, to.scales.subspan(sizeof(float)));
      if (codec_.rounding == Rounding::nearest) kernels_.encode_nearest(levels, x, codes.data());
      else kernels_.encode_stochastic(levels, x, stream, source.rounding(), codes.data());
    }
    pack_bits(std::span<const uint8_t>(codes), codec_.bits, to.codes);
  }
}

template <bool adds>
void BucketCodec::decode_buckets(std::span<const std::byte> message, const CodeSource& source,
                                 std::span<float> values) {
  check_message_size(codec_, static_cast<int64_t>(values.size()), message.size(), source);
  for (int64_t bucket = 0; !values.empty(); ++bucket) {
    const std::span<float> here = values.first(std::min(values.size(), static_cast<size_t>(codec_.bucket)));
    values = values.subspan(here.size());
    const auto count = static_cast<int64_t>(here.size());
    const size_t bytes = codec_.bytes_of_bucket(count);
    const Message from(codec_, message.first(bytes));
    message = message.subspan(bytes);
    const auto refuse = [&](const std::string& seen, const std::string& allowed) {
      refuse_message(source.from_bucket(bucket), seen, allowed);
    };

    const float scale = from_bytes(from.scales);
    if (!(scale >= 0 && std::isfinite(scale))) refuse(fmt::format("scale {}", scale), "finite and not negative");
    const std::span<uint8_t> codes(codes_.data(), static_cast<size_t>(codec_.codes_of(count)));
    if (!unpack_bits(from.codes, codec_.bits, codes)) refuse("bits behind the last code", "zeros");

    const bool rotates = codec_.rotation != Codec::Rotation::none;
    const std::span<float> x = rotates || adds ? std::span(values_).first(codes.size()) : here;
    if (codec_.grid == Grid::float8) {
      const auto no_number = [](uint8_t code) { return (code & 0x7f) >= formats::e4m3.first_nan_code; };
      if (std::ranges::any_of(codes, no_number)) refuse("a code of NaN", "codes of finite values");
      kernels_.decode_float8(scale, codes.data(), x);
    } else if (codec_.grid == Grid::normal) {
      decode_normal(kernels_, codec_.bits, scale, codes.data(), x);
    } else {
      EqualLevels levels = equal_levels(codec_);
      levels.step = scale;
      if (codec_.range == Range::extremes) levels.minimum = from_bytes(from.scales.subspan(sizeof(float)));
      if (!std::isfinite(levels.minimum)) refuse(fmt::format("minimum {}", levels.minimum), "finite");
      if (codec_.grid == Grid::sign_and_magnitude && std::ranges::max(codes) > levels.last)
        refuse(fmt::format("code {}", std::ranges::max(codes)), fmt::format("at most {}", levels.last));
      kernels_.decode_levels(levels, codes.data(), x);
    }
    if (rotates) {
      const bool own = codec_.rotation == Codec::Rotation::of_rank;
      kernels_.unrotate(x, source.stream(bucket), own ? source.own_signs() : source.shared_signs());
      if constexpr (!adds) std::ranges::copy(x.first(here.size()), here.begin());
    }
    if constexpr (adds)
      simd::for_each_group(count, [&](int64_t i, int64_t n) {
        simd::store_n(here.data() + i, simd::load_n(here.data() + i, n) + simd::load_n(x.data() + i, n), n);
      });
  }
}

void BucketCodec::decode(std::span<const std::byte> message, const CodeSource& source, std::span<float> values) {
  decode_buckets<false>(message, source, values);
}
void BucketCodec::decode_and_add(std::span<const std::byte> message, const CodeSource& source,
                                 std::span<float> values) {
  decode_buckets<true>(message, source, values);
}

}  // namespace nibble
