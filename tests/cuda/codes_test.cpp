// Codes of a device's values: the bytes of the host's codecs, the same numbers back, and nothing that no encoder wrote.
#include "comm/cuda/codes.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "comm/bucket_codec.hpp"
#include "comm/bucket_sums.hpp"
#include "tests/cuda/on_device.hpp"

namespace nibble {
namespace {

using testing::on_device;
using testing::on_host;

constexpr CodeSource source{.seed = 11, .step = 3, .first_bucket = 70, .rank = 2};

/// Rows whose codes a device makes.
std::vector<std::string> names() {
  std::vector<std::string> names;
  for (const Codec& codec : codecs())
    if (codec.range != Codec::Range::largest_of_ranks && codec.range != Codec::Range::distance)
      names.emplace_back(codec.name);
  return names;
}

std::vector<float> drawn(int64_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(generator);
  return values;
}

/// Buckets of each kind, and a shorter one.
std::vector<float> of_all_kinds(int64_t bucket, int64_t rest) {
  std::vector<float> values = drawn(7 * bucket + rest, 5);
  const auto at = [&](int64_t kind, int64_t i) -> float& { return values[static_cast<size_t>(kind * bucket + i)]; };
  for (int64_t i = 0; i < bucket; ++i) {
    at(1, i) = i % 3 == 0 ? -0.0f : 0.0f;
    at(2, i) *= 1e-40f;  // subnormal
    at(3, i) = i % 5 == 0 ? (i % 2 == 0 ? 0x1.fffffep99f : -0x1.fffffep99f) : at(3, i) * 1e-30f;
    at(4, i) = 0.7f;
    at(5, i) = i % 4 == 0 ? (i % 8 == 0 ? 0.0f : -0.0f) : std::abs(at(5, i));  // the smallest is either zero
    at(6, i) *= 0x1p-101f;                                                     // scales around the smallest one
  }
  return values;
}

struct Counter {
  Counter() : memory(2 * sizeof(unsigned long long), "test", Place::device) {}
  unsigned long long* there() const { return static_cast<unsigned long long*>(memory.data()); }
  unsigned long long value(Stream& stream) const {
    unsigned long long value;
    stream.queue().copy(&value, memory.data(), sizeof value);
    stream.wait();
    return value;
  }
  Buffer memory;
};

std::vector<std::byte> host_codes(const Codec& codec, const CodeSource& from, const std::vector<float>& values) {
  std::vector<std::byte> message(codec.bytes_of(std::ssize(values)));
  BucketCodec(codec).encode(values, from, message);
  return message;
}

/// `offset`: of the codes' memory, bytes; of values, elements.
std::vector<std::byte> device_codes(Stream& stream, const Codec& codec, const std::vector<float>& values,
                                    int64_t offset, const Counter& refused) {
  const auto count = std::ssize(values);
  const size_t bytes = codec.bytes_of(count);
  const Buffer from(static_cast<size_t>(count + offset) * sizeof(float), "test", Place::device),
      codes(bytes + static_cast<size_t>(offset) + 1, "test", Place::device);
  auto* const first = static_cast<float*>(from.data()) + offset;
  auto* const to = static_cast<uint8_t*>(codes.data()) + offset;
  stream.queue().copy(first, values.data(), values.size() * sizeof(float));
  encode_codes(stream, cuda::CodedRun::of(codec, source, count), first, to, refused.there());
  std::vector<std::byte> message(bytes + 1);
  stream.queue().copy(message.data(), to, message.size());
  stream.wait();
  EXPECT_EQ(message.back(), std::byte{0}) << "written behind the message";
  message.pop_back();
  return message;
}

/// The sum of messages of ranks 2, 3 ...
std::vector<float> device_sum(Stream& stream, const Codec& codec, const std::vector<std::vector<std::byte>>& messages,
                              int64_t count, const Counter& damaged) {
  const size_t bytes = messages.front().size(), stride = bytes + 3;
  const Buffer codes(messages.size() * stride, "test", Place::device);
  const Buffer values(static_cast<size_t>(count) * sizeof(float), "test", Place::device);
  for (size_t m = 0; m < messages.size(); ++m)
    stream.queue().copy(static_cast<std::byte*>(codes.data()) + m * stride, messages[m].data(), bytes);
  decode_codes(stream, cuda::CodedRun::of(codec, source, count),
               {.first = static_cast<const uint8_t*>(codes.data()),
                .stride = static_cast<int64_t>(stride),
                .count = static_cast<int>(messages.size()),
                .signs_apart = codec.rotation == Codec::Rotation::of_rank ? 1u : 0u},
               static_cast<float*>(values.data()), damaged.there());
  std::vector<float> sum(static_cast<size_t>(count));
  stream.queue().copy(sum.data(), values.data(), sum.size() * sizeof(float));
  stream.wait();
  return sum;
}

void check(Stream& stream, const Codec& codec, const std::vector<float>& values, int64_t offset) {
  const Counter refused, damaged;
  const std::vector<std::byte> expected = host_codes(codec, source, values);
  const std::vector<std::byte> seen = device_codes(stream, codec, values, offset, refused);
  const auto difference = std::mismatch(expected.begin(), expected.end(), seen.begin());
  ASSERT_TRUE(difference.first == expected.end()) << "byte " << difference.first - expected.begin();
  EXPECT_EQ(refused.value(stream), 0u);

  std::vector<std::vector<std::byte>> messages{expected};
  std::vector<float> sum(values.size());
  BucketCodec on_host(codec);
  on_host.decode(expected, source, sum);
  for (int other = 1; other <= 2; ++other) {
    std::vector<float> theirs = values;
    for (float& value : theirs) value *= other == 1 ? -0.3f : 1.7f / 8;
    messages.push_back(host_codes(codec, source.of_rank(source.rank + other), theirs));
    on_host.decode_and_add(messages.back(), source.of_rank(source.rank + other), sum);
  }
  const std::vector<float> sum_there = device_sum(stream, codec, messages, std::ssize(values), damaged);
  for (size_t i = 0; i < sum.size(); ++i)
    ASSERT_EQ(0, std::memcmp(&sum[i], &sum_there[i], sizeof(float)))
        << "value " << i << ": " << sum_there[i] << " instead of " << sum[i];
  EXPECT_EQ(damaged.value(stream), 0u);
}

TEST(DeviceCodes, HaveTheHostsBytesAndValues) {
  Stream device(1, Place::device);
  for (const std::string& name : names()) {
    for (const int64_t bucket : {8, 16, 64, 512})
      for (const int64_t rest : {0, 1, 3, 5}) {
        const Codec codec = codec_named(name, bucket, "test");
        SCOPED_TRACE(::testing::Message() << name << ", buckets of " << bucket << ", rest of " << rest);
        ASSERT_TRUE(codes_on_device(codec));
        check(device, codec, of_all_kinds(bucket, rest), rest % 2);
      }
    for (const int64_t count : {1, 2, 4, 7, 9, 100, 1024 + 300}) {
      SCOPED_TRACE(::testing::Message() << name << ", " << count << " values");
      check(device, codec_named(name, 1024, "test"), drawn(count, 9), 0);
    }
    SCOPED_TRACE(name);
    check(device, codec_named(name, 8192, "test"), drawn(8192 + 4100, 3), 1);
  }
}

// More than a block holds in registers; and rotated, more than it has memory for.
TEST(DeviceCodes, TakeBucketsOfAnySizeThatAreNotRotated) {
  Stream device(1, Place::device);
  for (const char* name : {"maxmin-4", "qsgd-8", "fp8", "maxmin-nearest-2"}) {
    SCOPED_TRACE(name);
    check(device, codec_named(name, 24, "test"), drawn(24 * 3 + 9, 2), 0);
    check(device, codec_named(name, 8200, "test"), drawn(2 * 8200 + 11, 2), 1);
    check(device, codec_named(name, 65536, "test"), drawn(65536, 2), 0);
  }
  EXPECT_TRUE(codes_on_device(codec_named("eden-1", 8192, "test")));
  EXPECT_FALSE(codes_on_device(codec_named("eden-1", 16384, "test")));
  EXPECT_FALSE(codes_on_device(codec_named("correlated-4", 64, "test")));
  EXPECT_FALSE(codes_on_device(codec_named("lattice-4", 64, "test")));
}

TEST(DeviceCodes, RefuseWhatIsNotEncodable) {
  Stream device(1, Place::device);
  for (const std::string& name : names())
    for (const float poison :
         {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity(), 0x1p100f}) {
      const Codec codec = codec_named(name, 64, "test");
      SCOPED_TRACE(::testing::Message() << name << ", " << poison);
      std::vector<float> values = drawn(5 * 64 + 7, 4);
      const std::vector<std::byte> whole = host_codes(codec, source, values);
      values[64 + 63] = values[3 * 64] = values[3 * 64 + 1] = values.back() = poison;
      const Counter refused;
      const std::vector<std::byte> seen = device_codes(device, codec, values, 0, refused);
      EXPECT_EQ(refused.value(device), 3u);
      const size_t bytes = codec.bytes_of_bucket(64);
      for (const size_t bucket : {0, 2, 4})
        EXPECT_EQ(0, std::memcmp(&seen[bucket * bytes], &whole[bucket * bytes], bytes));
      for (size_t i = bytes; i < 2 * bytes; ++i) ASSERT_EQ(seen[i], std::byte{0}) << "written of a refused bucket";
    }
}

TEST(DeviceCodes, FindWhatNoEncoderWrote) {
  Stream device(1, Place::device);
  const auto float_bytes = [](std::vector<std::byte>& message, size_t at, float value) {
    std::memcpy(&message[at], &value, sizeof value);
  };
  const auto finds = [&](const Codec& codec, int64_t count, const auto& damage) {
    const Counter damaged;
    std::vector<std::byte> message = host_codes(codec, source, drawn(count, 4));
    const std::vector<std::byte> whole = message;
    damage(message);
    device_sum(device, codec, {whole, message}, count, damaged);
    std::vector<float> values(static_cast<size_t>(count));
    bool refused = false;
    try {
      BucketCodec(codec).decode(message, source, values);
    } catch (const Error&) {
      refused = true;
    }
    return refused && damaged.value(device) > 0;
  };
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::string& name : names()) {
    SCOPED_TRACE(name);
    const Codec codec = codec_named(name, 64, "test");
    const size_t second = codec.bytes_of_bucket(64), scale = codec.scale_bytes();
    for (const float wrong : {inf, nan, -1.0f})
      EXPECT_TRUE(finds(codec, 150, [&](auto& message) { float_bytes(message, second, wrong); })) << wrong;
    if (codec.range == Codec::Range::extremes) {
      EXPECT_TRUE(finds(codec, 150, [&](auto& message) { float_bytes(message, second + 4, -inf); }));
    }
    if (codec.bits < 8) {  // a bucket of one value, whose codes are as many
      EXPECT_TRUE(finds(codec, 129, [&](auto& message) { message.back() |= std::byte{0x80}; }));
    }
    if (codec.grid == Codec::Grid::float8) {
      EXPECT_TRUE(finds(codec, 150, [&](auto& message) { message[second + scale + 3] = std::byte{0xff}; }));
    }
    if (codec.grid == Codec::Grid::sign_and_magnitude) {
      EXPECT_TRUE(finds(codec, 150, [&](auto& message) { message[second + scale + 3] = std::byte{0xff}; }));
    }
    EXPECT_FALSE(finds(codec, 150, [](auto&) {}));
  }
}

}  // namespace
}  // namespace nibble
