#include "comm/bucket_codec.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "comm/code_error.hpp"
#include "comm/level_arithmetic.hpp"
#include "quant/arithmetic.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

using Grid = Codec::Grid;
using Range = Codec::Range;
using Rounding = Codec::Rounding;

[[noreturn]] void refuse_values(const Codec& codec, std::span<const float> values, const CodeSource& source) {
  const auto wrong = std::ranges::find_if(values, [](float x) { return !encodable_magnitude(bits_of(std::abs(x))); });
  const auto first = wrong - values.begin();
  throw Error({.kind = ErrorKind::numerics,
               .what = "a gradient has a value that cannot be encoded",
               .where = fmt::format("rank {}, step {}, bucket {}, value {}", source.rank, source.step,
                                    source.from_bucket(first / codec.bucket).first_bucket, first % codec.bucket),
               .seen = fmt::format("{}", *wrong),
               .allowed = "finite values below 2^100",
               .next = "lower the learning rate or clip gradients"});
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

/// Writes the codes, and returns what multiplies their levels.
float encode_normal_bucket(const CodeKernels& kernels, const Codec& codec, std::span<const float> z, uint8_t* codes) {
  const double square = kernels.squared_norm(z), deviation = std::sqrt(square / static_cast<double>(z.size()));
  const float scale = scale_or_zero(static_cast<float>(deviation));
  if (scale == 0) {
    std::memset(codes, 1 << (codec.bits - 1), z.size());
    return 0;
  }
  const auto [product, levels] = kernels.encode_normal(codec.bits, scale, codec.scale, z, codes);
  return static_cast<float>(codec.scale == Codec::Scale::unbiased ? square / product : product / levels);
}

}  // namespace

bool encodable(std::span<const float> values) {
  return encodable_magnitude(code_kernels(Isa::avx2).largest_magnitude_bits(values));
}

BucketCodec::BucketCodec(const Codec& codec, Isa isa)
    : codec_(codec),
      kernels_(code_kernels(isa)),
      values_(static_cast<size_t>(codec.bucket)),
      codes_((static_cast<size_t>(codec.bucket) + 63) / 64 * 64) {
  if (codec.range == Range::largest_of_ranks || codec.range == Range::distance)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "this codec needs to know something of the other ranks",
                 .seen = std::string(codec.name),
                 .allowed = "qsgd, maxmin, independent, drive, eden, fp8"});
}

std::span<const float> BucketCodec::rotated(std::span<const float> values, const CodeSource& source) {
  if (codec_.rotation == Codec::Rotation::none) return values;
  const std::span<float> z(values_.data(), static_cast<size_t>(codec_.codes_of(static_cast<int64_t>(values.size()))));
  const bool own = codec_.rotation == Codec::Rotation::of_rank;
  kernels_.rotate(values, z, source.stream(0), own ? source.own_signs() : source.shared_signs());
  return z;
}

bool BucketCodec::encode_bucket(std::span<const float> values, const CodeSource& source, std::span<std::byte> message) {
  const bool has_minimum = codec_.range == Range::extremes;
  const Extremes ends =
      has_minimum ? kernels_.extremes(values) : Extremes{0, 0, kernels_.largest_magnitude_bits(values)};
  if (!encodable_magnitude(ends.largest_magnitude_bits)) return false;
  const Message to(codec_, message);
  const float largest = simd::as<float>(ends.largest_magnitude_bits);
  const std::span<const float> x = rotated(values, source);
  const std::span<uint8_t> codes(codes_.data(), x.size());
  const RandomStream stream = source.stream(0);
  if (codec_.grid == Grid::float8) {
    const float scale = scale_or_zero(largest / formats::e4m3.max);
    kernels_.encode_float8(scale, codec_.rounding, x, stream, source.rounding(), codes.data());
    to_bytes(scale, to.scales);
  } else if (codec_.grid == Grid::normal) {
    to_bytes(encode_normal_bucket(kernels_, codec_, x, codes.data()), to.scales);
  } else {
    EqualLevels levels = equal_levels(codec_);
    const float range = has_minimum                   ? ends.largest - ends.smallest
                        : codec_.range == Range::norm ? static_cast<float>(std::sqrt(kernels_.squared_norm(x)))
                                                      : largest;
    levels.step = scale_or_zero(range / steps_to_end(codec_, levels));
    levels.minimum = ends.smallest + 0.0f;  // of zeros of both signs the same one, whichever was found first
    to_bytes(levels.step, to.scales);
    if (has_minimum) to_bytes(levels.minimum, to.scales.subspan(sizeof(float)));
    if (codec_.rounding == Rounding::nearest) kernels_.encode_nearest(levels, x, codes.data());
    else kernels_.encode_stochastic(levels, x, stream, source.rounding(), codes.data());
  }
  kernels_.pack(std::span<const uint8_t>(codes), codec_.bits, to.codes);
  return true;
}

bool BucketCodec::try_encode(std::span<const float> values, const CodeSource& source, std::span<std::byte> message) {
  check_message_size(codec_, static_cast<int64_t>(values.size()), message.size(), source);
  for (int64_t bucket = 0; !values.empty(); ++bucket) {
    const std::span<const float> here = values.first(std::min(values.size(), static_cast<size_t>(codec_.bucket)));
    const size_t bytes = codec_.bytes_of_bucket(static_cast<int64_t>(here.size()));
    if (!encode_bucket(here, source.from_bucket(bucket), message.first(bytes))) return false;
    values = values.subspan(here.size());
    message = message.subspan(bytes);
  }
  return true;
}

void BucketCodec::encode(std::span<const float> values, const CodeSource& source, std::span<std::byte> message) {
  if (!try_encode(values, source, message)) refuse_values(codec_, values, source);
}

bool BucketCodec::can_encode(std::span<const float> values) const {
  return encodable_magnitude(kernels_.largest_magnitude_bits(values));
}

void BucketCodec::decode_buckets(std::span<const std::byte> message, const CodeSource& source, Decoded decoded,
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
    if (!kernels_.unpack(from.codes, codec_.bits, codes)) refuse("bits behind the last code", "zeros");

    const bool rotates = codec_.rotation != Codec::Rotation::none;
    const std::span<float> x = rotates ? std::span(values_).first(codes.size()) : here;
    const Decoded into_x = rotates ? Decoded::replaces : decoded;
    if (codec_.grid == Grid::float8) {
      if (kernels_.largest_code(codes, 0x7f) >= formats::e4m3.first_nan_code)
        refuse("a code of NaN", "codes of finite values");
      kernels_.decode_float8(scale, codes.data(), into_x, x);
    } else if (codec_.grid == Grid::normal) {
      kernels_.decode_normal(codec_.bits, scale, codes.data(), into_x, x);
    } else {
      EqualLevels levels = equal_levels(codec_);
      levels.step = scale;
      if (codec_.range == Range::extremes) levels.minimum = from_bytes(from.scales.subspan(sizeof(float)));
      if (!std::isfinite(levels.minimum)) refuse(fmt::format("minimum {}", levels.minimum), "finite");
      if (codec_.grid == Grid::sign_and_magnitude)
        if (const int largest = kernels_.largest_code(codes, 0xff); largest > levels.last)
          refuse(fmt::format("code {}", largest), fmt::format("at most {}", levels.last));
      kernels_.decode_levels(levels, codes.data(), into_x, x);
    }
    if (rotates) {
      const bool own = codec_.rotation == Codec::Rotation::of_rank;
      kernels_.unrotate(x, source.stream(bucket), own ? source.own_signs() : source.shared_signs(), decoded, here);
    }
  }
}

void BucketCodec::decode(std::span<const std::byte> message, const CodeSource& source, std::span<float> values) {
  decode_buckets(message, source, Decoded::replaces, values);
}
void BucketCodec::decode_and_add(std::span<const std::byte> message, const CodeSource& source,
                                 std::span<float> values) {
  decode_buckets(message, source, Decoded::adds, values);
}

}  // namespace nibble
