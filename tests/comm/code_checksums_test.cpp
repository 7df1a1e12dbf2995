// Messages and what is decoded from them, bit for bit: ranks of other builds, and of other instruction sets, must
// agree.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>

#include "comm/bit_packing.hpp"
#include "comm/correlated_codec.hpp"
#include "comm/lattice_codec.hpp"
#include "tensor/files.hpp"
#include "tensor/stream.hpp"
#include "tests/comm/code_trials.hpp"

namespace nibble {
namespace {

constexpr int64_t bucket = 256;
constexpr CodeSource source{.seed = 0x0123456789abcdef, .step = 7, .first_bucket = 3, .rank = 2};

/// About normal, and without functions that C libraries round differently. Some are zero.
std::vector<float> plain_values(int64_t count) {
  const RandomStream stream(5, Purpose::initialization);
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) {
    const PhiloxBlock words = stream.block(i);
    float sum = -2;
    for (const uint32_t word : words) sum += static_cast<float>(word >> 8) * 0x1p-24f;
    values[i] = words[0] % 16 == 0 ? 0.0f : sum;
  }
  return values;
}

/// Checksums of checksums, in 32 bits: a table of them can be read.
class Digest {
 public:
  template <class T>
  void add(std::span<const T> numbers) {
    parts_.push_back(checksum(std::as_bytes(numbers)));
  }
  template <class T>
  void add(const std::vector<T>& numbers) {
    add(std::span<const T>(numbers));
  }
  uint32_t value() const { return static_cast<uint32_t>(checksum(std::as_bytes(std::span(parts_)))); }

 private:
  std::vector<uint64_t> parts_;
};

void add_own(Digest& digest, const Codec& row, Isa isa, const std::vector<float>& values) {
  BucketCodec codec(row, isa);
  std::vector<std::byte> message(row.bytes_of(static_cast<int64_t>(values.size())));
  std::vector<float> decoded(values.size()), sum = values;
  codec.encode(values, source, message);
  codec.decode(message, source, decoded);
  codec.decode_and_add(message, source, sum);
  digest.add(message);
  digest.add(decoded);
  digest.add(sum);
}

void add_correlated(Digest& digest, const Codec& row, Isa isa, const std::vector<float>& values) {
  constexpr int ranks = 5;
  CorrelatedCodec codec(row, ranks, isa);
  const auto count = static_cast<int64_t>(values.size()), padded = row.padded(count);
  std::vector<float> prepared(static_cast<size_t>(padded)), ranges(static_cast<size_t>(row.buckets_of(count)));
  std::vector<float> sum(values.size());
  codec.prepare(values, source, prepared);
  codec.ranges(prepared, ranges);
  std::vector<uint16_t> counts(prepared.size());
  for (int rank = 0; rank < ranks; ++rank) {
    std::vector<std::byte> codes(packed_bytes(padded, row.bits));
    codec.encode(prepared, ranges, source.of_rank(rank), (rank + 3) % ranks, codes);
    codec.count(codes, source.of_rank(rank), counts);
    digest.add(codes);
  }
  codec.decode(counts, ranges, source, sum);
  digest.add(ranges);
  digest.add(counts);
  digest.add(sum);
}

void add_lattice(Digest& digest, const Codec& row, Isa isa, const std::vector<float>& values) {
  LatticeCodec codec(row, isa);
  std::vector<std::byte> message(row.bytes_of(static_cast<int64_t>(values.size())));
  std::vector<float> near = values, decoded(values.size());
  for (size_t i = 0; i < near.size(); ++i) near[i] += i % 2 == 0 ? 0x1p-6f : -0x1p-6f;
  codec.encode(values, 0.5f, source, message);
  EXPECT_EQ(codec.decode(message, near, source, decoded), LatticeCodec::Found::near) << row.name;
  digest.add(message);
  digest.add(decoded);
}

uint32_t digest_of(std::string_view name, Isa isa) {
  const Codec row = codec_named(name, bucket, "test");
  Digest digest;
  for (const int64_t count : {777, 261, 1024}) {  // last buckets of 9 and 5 values, and a whole one
    std::vector<float> values = plain_values(count);
    if (count == 1024) {
      std::fill_n(values.begin(), bucket, 0.0f);
      std::fill_n(values.begin() + bucket, bucket, -0.75f);
    }
    if (row.range == Codec::Range::largest_of_ranks) add_correlated(digest, row, isa, values);
    else if (row.range == Codec::Range::distance) add_lattice(digest, row, isa, values);
    else add_own(digest, row, isa, values);
  }
  return digest.value();
}

TEST(Codecs, HaveTheBitsTheyAlwaysHad) {
  const std::map<std::string_view, uint32_t> digests{
      {"qsgd-2", 0x668b865f},
      {"qsgd-4", 0xed129018},
      {"qsgd-8", 0xacdd776b},
      {"maxmin-2", 0x94003ad1},
      {"maxmin-4", 0x6fce4302},
      {"maxmin-8", 0x595d010c},
      {"maxmin-nearest-2", 0x2fce6480},
      {"maxmin-nearest-4", 0x361ba57f},
      {"maxmin-nearest-8", 0x3b521988},
      {"independent-1", 0xbb7a9bbe},
      {"independent-2", 0x964c0ec7},
      {"independent-4", 0x92c461f4},
      {"independent-8", 0x646113da},
      {"drive", 0xc00b6a7d},
      {"drive-least-error", 0xe9ff6acd},
      {"eden-1", 0xc00b6a7d},
      {"eden-2", 0x091bb14b},
      {"eden-3", 0xe7960bf2},
      {"eden-4", 0x75314011},
      {"eden-5", 0x6c268604},
      {"eden-6", 0x51a0d294},
      {"eden-7", 0x275f5b6e},
      {"eden-8", 0xa57eef43},
      {"correlated-1", 0x5913813f},
      {"correlated-2", 0xe52d78b3},
      {"correlated-4", 0x77f10097},
      {"correlated-8", 0x7bca0ca8},
      {"rotated-correlated-1", 0x9eef92fd},
      {"rotated-correlated-2", 0x7801a9b9},
      {"rotated-correlated-4", 0x1bf2ffeb},
      {"rotated-correlated-8", 0x3ca04dad},
      {"fp8", 0x62c5a541},
      {"fp8-nearest", 0x8c40daea},
      {"lattice-2", 0x5ee70a16},
      {"lattice-3", 0x34778680},
      {"lattice-4", 0x9eb183ac},
      {"lattice-8", 0x83b240b0},
      {"rotated-lattice-4", 0x9319bd0f},
  };
  for (const Codec& row : codecs())
    for (const Isa isa : {Isa::avx2, Stream().isa()}) {
      const auto known = digests.find(row.name);
      const uint32_t digest = digest_of(row.name, isa);
      EXPECT_EQ(digest, known == digests.end() ? 0 : known->second)
          << fmt::format("{{\"{}\", {:#010x}}},", row.name, digest);
    }
}

}  // namespace
}  // namespace nibble
