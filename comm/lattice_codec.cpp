#include "comm/lattice_codec.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "comm/bit_packing.hpp"
#include "comm/bucket_codec.hpp"
#include "comm/code_error.hpp"
#include "tensor/error.hpp"
#include "tensor/files.hpp"

namespace nibble {
namespace {

/// Where the lattice lies along each coordinate; asked for in ascending order, as four share a block.
class Offsets {
 public:
  Offsets(const RandomStream& stream, double side) : stream_(stream), side_(side) {}
  double operator[](size_t i) {
    if (i % 4 == 0) words_ = stream_.block((uint64_t{CodeSource::dither} << 32) + i / 4);
    return (words_[i % 4] * 0x1p-32 - 0.5) * side_;
  }

 private:
  RandomStream stream_;
  double side_;
  PhiloxBlock words_{};
};

/// A damaged bucket passes for a good one once in 2^32.
uint32_t checksum_of(std::span<const int32_t> points) { return static_cast<uint32_t>(checksum(std::as_bytes(points))); }

constexpr double most_points = 0x1p30;

}  // namespace

double lattice_side(float distance, int bits) {
  // |z side + offset - own| <= distance + side / 2, and points of a colour are 2^bits sides apart. A little more for
  // the rounding of the values themselves.
  return 2.0 * distance * (1 + 1e-6) / ((1 << bits) - 1);
}

LatticeCodec::LatticeCodec(const Codec& codec, Isa isa)
    : codec_(codec),
      kernels_(code_kernels(isa)),
      values_(static_cast<size_t>(codec.bucket)),
      points_(static_cast<size_t>(codec.bucket)),
      colours_(static_cast<size_t>(codec.bucket)) {
  if (codec.rounding != Codec::Rounding::dithered)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "this codec is no lattice",
                 .seen = std::string(codec.name),
                 .allowed = "lattice, rotated-lattice"});
}

std::span<float> LatticeCodec::prepared(std::span<const float> values, const RandomStream& stream,
                                        const CodeSource& source) {
  const auto codes = static_cast<size_t>(codec_.codes_of(static_cast<int64_t>(values.size())));
  const std::span<float> x(values_.data(), codes);
  std::ranges::copy(values, x.begin());
  std::ranges::fill(x.subspan(values.size()), 0.0f);
  if (codec_.rotation != Codec::Rotation::none) kernels_.rotate(x, x, stream, source.shared_signs());
  return x;
}

void LatticeCodec::encode(std::span<const float> values, float distance, const CodeSource& source,
                          std::span<std::byte> message) {
  check_message_size(codec_, static_cast<int64_t>(values.size()), message.size(), source);
  const double side = lattice_side(distance, codec_.bits);
  for (int64_t bucket = 0; !values.empty(); ++bucket) {
    const std::span<const float> here = values.first(std::min(values.size(), static_cast<size_t>(codec_.bucket)));
    values = values.subspan(here.size());
    const RandomStream stream = source.stream(bucket);
    const bool finite = encodable_magnitude(kernels_.largest_magnitude_bits(here));
    const std::span<const float> x = prepared(here, stream, source);
    const float largest = std::abs(*std::ranges::max_element(x, {}, [](float v) { return std::abs(v); }));
    if (!finite || !(distance > 0) || !std::isfinite(distance) || !(largest / side < most_points))
      throw Error({.kind = ErrorKind::numerics,
                   .what = "a vector has no lattice points",
                   .where = fmt::format("rank {}, step {}, bucket {}", source.rank, source.step,
                                        source.from_bucket(bucket).first_bucket),
                   .seen = fmt::format("largest magnitude {}, distance between ranks {}", largest, distance),
                   .allowed = "finite values below 2^30 lattice sides"});
    const std::span<int32_t> points(points_.data(), x.size());
    const std::span<uint8_t> colours(colours_.data(), x.size());
    Offsets offsets(stream, side);
    for (size_t i = 0; i < x.size(); ++i) {
      points[i] = static_cast<int32_t>(std::floor((x[i] - offsets[i]) / side + 0.5));
      colours[i] = static_cast<uint8_t>(points[i] & ((1 << codec_.bits) - 1));
    }
    const uint32_t check = checksum_of(points);
    std::memcpy(message.data(), &distance, sizeof distance);
    std::memcpy(message.data() + sizeof distance, &check, sizeof check);
    const size_t bytes = codec_.bytes_of_bucket(static_cast<int64_t>(here.size()));
    pack_bits(std::span<const uint8_t>(colours), codec_.bits,
              message.subspan(codec_.scale_bytes(), bytes - codec_.scale_bytes()));
    message = message.subspan(bytes);
  }
}

float LatticeCodec::difference(std::span<const float> a, std::span<const float> b, const CodeSource& source) {
  float largest = 0;
  std::vector<float> between(static_cast<size_t>(codec_.bucket));
  for (int64_t bucket = 0; !a.empty(); ++bucket) {
    const size_t here = std::min(a.size(), between.size());
    std::ranges::transform(a.first(here), b.first(here), between.begin(), std::minus());
    for (const float value : prepared(std::span(between).first(here), source.stream(bucket), source))
      largest = std::max(largest, std::abs(value));
    a = a.subspan(here);
    b = b.subspan(here);
  }
  return largest;
}

LatticeCodec::Found LatticeCodec::decode(std::span<const std::byte> message, std::span<const float> own,
                                         const CodeSource& source, std::span<float> values) {
  check_message_size(codec_, static_cast<int64_t>(values.size()), message.size(), source);
  Found found = Found::near;
  const int colour_count = 1 << codec_.bits;
  for (int64_t bucket = 0; !values.empty(); ++bucket) {
    const size_t here = std::min(values.size(), static_cast<size_t>(codec_.bucket));
    const size_t bytes = codec_.bytes_of_bucket(static_cast<int64_t>(here));
    float distance;
    uint32_t check;
    std::memcpy(&distance, message.data(), sizeof distance);
    std::memcpy(&check, message.data() + sizeof distance, sizeof check);
    if (!(distance > 0 && std::isfinite(distance)))
      refuse_message(source.from_bucket(bucket), fmt::format("distance {}", distance), "finite and above 0");
    const RandomStream stream = source.stream(bucket);
    const std::span<float> x = prepared(own.first(here), stream, source);
    const std::span<int32_t> points(points_.data(), x.size());
    const std::span<uint8_t> colours(colours_.data(), x.size());
    if (!unpack_bits(message.subspan(codec_.scale_bytes(), bytes - codec_.scale_bytes()), codec_.bits, colours))
      refuse_message(source.from_bucket(bucket), "bits behind the last colour", "zeros");
    const double side = lattice_side(distance, codec_.bits);
    bool numbered = true;
    Offsets offsets(stream, side);
    for (size_t i = 0; i < x.size(); ++i) {
      const double dither = offsets[i], t = (x[i] - dither) / side;
      const double point = colours[i] + colour_count * std::floor((t - colours[i]) / colour_count + 0.5);
      numbered = numbered && std::abs(point) < 2 * most_points - 1;
      points[i] = numbered ? static_cast<int32_t>(point) : 0;
      x[i] = static_cast<float>(point * side + dither);
    }
    if (numbered && checksum_of(points) == check) {
      if (codec_.rotation != Codec::Rotation::none)
        kernels_.unrotate(x, stream, source.shared_signs(), Decoded::replaces, x);
      std::ranges::copy(x.first(here), values.begin());
    } else {
      found = Found::too_far;
      if (own.data() != values.data()) std::ranges::copy(own.first(here), values.begin());
    }
    message = message.subspan(bytes);
    own = own.subspan(here);
    values = values.subspan(here);
  }
  return found;
}

}  // namespace nibble
