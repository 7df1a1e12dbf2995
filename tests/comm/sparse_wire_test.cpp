// The bytes of streams: how many, what they mean, and which are refused.
#include "comm/sparse_wire.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <random>

#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

using Bytes = std::vector<std::byte>;

constexpr SparseForm plain{.layout = SparseLayout::plain}, packed{.layout = SparseLayout::packed},
    dense{.layout = SparseLayout::dense};

SparseForm with(SparseForm form, Wire values, int per_bucket = 0) {
  form.values = values;
  form.per_bucket = per_bucket;
  return form;
}

Bytes written(const SparseStream& stream, const SparseForm& form) {
  Bytes bytes(wire_bytes(form, stream.length(), stream.count()), std::byte{0xff});
  encode(stream, form, bytes);
  return bytes;
}

/// Entries of random bits, of elements that are chosen with this probability.
SparseStream random_stream(uint32_t seed, int64_t length, double density) {
  std::mt19937 random(seed);
  std::vector<SparseEntry> entries;
  for (int64_t i = 0; i < length; ++i)
    if (std::bernoulli_distribution(density)(random))
      entries.push_back({static_cast<uint32_t>(i), static_cast<float>(random()) - 2e9f});
  return SparseStream(length, std::move(entries));
}

/// k entries in every bucket.
SparseStream even_stream(int64_t length, int64_t k) {
  std::vector<SparseEntry> entries;
  for (int64_t first = 0; first < length; first += 512)
    for (int64_t i = 0; i < std::min(k, length - first); ++i) {
      const int64_t spread = std::min<int64_t>(512, length - first) / std::min(k, length - first);
      entries.push_back({static_cast<uint32_t>(first + i * spread), static_cast<float>(i) + 0.3f});
    }
  return SparseStream(length, std::move(entries));
}

SparseStream rounded(const SparseStream& stream) {
  std::vector<SparseEntry> entries(stream.entries().begin(), stream.entries().end());
  for (SparseEntry& entry : entries) entry.value = static_cast<float>(bf16(entry.value));
  return SparseStream(stream.length(), std::move(entries));
}

TEST(SparseWire, HasTheSizesOfTheFormulas) {
  EXPECT_EQ(wire_bytes(plain, 16, 3), 24u);
  EXPECT_EQ(wire_bytes(with(plain, Wire::bf16), 16, 3), 18u);
  EXPECT_EQ(wire_bytes(dense, 16, 16), 64u);
  EXPECT_EQ(wire_bytes(with(dense, Wire::bf16), 16, 16), 32u);
  for (const int64_t length : {512, 1024, 5000, 1'000'000})
    for (const int k : {1, 4, 16}) {
      const int64_t count = length / 512 * k + std::min<int64_t>(length % 512, k);
      EXPECT_EQ(entries_of_buckets(length, k), count);
      const auto items = static_cast<size_t>(count), counts = static_cast<size_t>((length + 511) / 512 * 10 + 7) / 8;
      EXPECT_EQ(wire_bytes(with(packed, Wire::f32, k), length, count), (items * 9 + 7) / 8 + 4 * items);
      EXPECT_EQ(wire_bytes(with(packed, Wire::bf16, k), length, count), (items * 9 + 7) / 8 + 2 * items);
      EXPECT_EQ(wire_bytes(packed, length, count), counts + (items * 9 + 7) / 8 + 4 * items);
    }
  // 41 bits an entry, as Top-k of 4 in 512 makes them.
  EXPECT_EQ(wire_bytes(with(packed, Wire::f32, 4), 1 << 24, 131'072), 131'072u * 41 / 8);
}

TEST(SparseWire, PutsTheLowestBitFirst) {
  const SparseStream two(1000, {{5, 1.0f}, {512 + 257, -2.0f}});
  const Bytes bytes = written(two, packed);
  // Counts 1, 1 in ten bits each; indices 5 and 257 in nine bits each; values.
  const std::vector<int> expected = {0x01, 0x04, 0x00, 0x05, 0x02, 0x02, 0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0};
  ASSERT_EQ(bytes.size(), expected.size());
  for (size_t i = 0; i < bytes.size(); ++i) EXPECT_EQ(static_cast<int>(bytes[i]), expected[i]) << i;
}

TEST(SparseWire, ReadsWhatWasWritten) {
  for (const int64_t length : {0, 1, 511, 512, 513, 5000})
    for (const double density : {0.0, 0.002, 0.03, 0.4, 1.0}) {
      const SparseStream stream = random_stream(static_cast<uint32_t>(length), length, density);
      for (const SparseForm& form : {plain, packed}) {
        EXPECT_EQ(decode(written(stream, form), form, length, stream.count(), "test"), stream);
        const SparseForm half = with(form, Wire::bf16);
        EXPECT_EQ(decode(written(stream, half), half, length, stream.count(), "test"), rounded(stream));
      }
      SparseStream whole = stream, half = rounded(stream);
      whole.make_dense();
      half.make_dense();
      EXPECT_EQ(decode(written(whole, dense), dense, length, length, "test"), whole);
      const SparseForm form = with(dense, Wire::bf16);
      EXPECT_EQ(decode(written(whole, form), form, length, length, "test"), half);
    }
}

TEST(SparseWire, LeavesOutTheNumbersOfEntriesThatAllBucketsShare) {
  for (const int64_t length : {512, 1024, 1027, 1030, 5000})
    for (const int k : {1, 4, 16, 512}) {
      const SparseStream stream = even_stream(length, k);
      const SparseForm form = shortest_form(stream, Wire::f32);
      EXPECT_EQ(form, with(packed, Wire::f32, k)) << length << " " << k;
      EXPECT_EQ(decode(written(stream, form), form, length, stream.count(), "test"), stream);
    }
}

TEST(SparseWire, TakesTheShortestForm) {
  for (const int64_t length : {3000, 100'000})
    for (const double density : {0.0, 0.0002, 0.001, 0.01, 0.3}) {
      const SparseStream stream = random_stream(9, length, density);
      const SparseForm form = shortest_form(stream, Wire::f32);
      const size_t bytes = wire_bytes(form, length, stream.count());
      EXPECT_EQ(bytes, std::min(wire_bytes(plain, length, stream.count()), wire_bytes(packed, length, stream.count())));
    }
  EXPECT_EQ(shortest_form(SparseStream(std::vector<float>(3)), Wire::bf16), with(dense, Wire::bf16));
}

class Refused : public testing::Test {
 protected:
  static constexpr int64_t length = 1100;
  SparseStream stream = random_stream(4, length, 0.05);
  int64_t count = stream.count();

  static void expect_refused(const Bytes& bytes, const SparseForm& form, int64_t elements, int64_t entries,
                             const std::string& text) {
    expect_error(ErrorKind::communication, {text, "from rank 7"},
                 [&] { decode(bytes, form, elements, entries, "from rank 7"); });
  }
};

TEST_F(Refused, EveryOtherLength) {
  for (const SparseForm& form : {plain, packed}) {
    Bytes bytes = written(stream, form);
    for (Bytes cut = bytes; !cut.empty();) {
      cut.pop_back();
      expect_refused(cut, form, length, count, "bytes");
    }
    bytes.push_back({});
    expect_refused(bytes, form, length, count, "bytes");
  }
}

TEST_F(Refused, ImpossibleNumbers) {
  const Bytes bytes = written(stream, plain);
  for (const int64_t impossible : {length + 1, int64_t{1} << 40, INT64_MAX, INT64_MIN, int64_t{-1}})
    for (const SparseForm& form : {plain, packed, dense, with(packed, Wire::f32, 4)})
      expect_refused(bytes, form, length, impossible, "so many entries");
  for (const int64_t impossible : {int64_t{-1}, (int64_t{1} << 32) + 1, INT64_MAX})
    expect_refused(bytes, plain, impossible, count, "so many entries");
  expect_refused(bytes, dense, length, count, "so many entries");
  expect_refused(bytes, with(plain, Wire::f32, 4), length, count, "so many entries");
  for (const int k : {-1, 513, 5}) expect_refused(bytes, with(packed, Wire::f32, k), length, count, "so many entries");
}

TEST_F(Refused, IndicesThatDoNotAscendOrLieOutside) {
  const auto with_index = [&](size_t entry, uint32_t index) {
    Bytes bytes = written(stream, plain);
    std::memcpy(bytes.data() + 4 * entry, &index, 4);
    return bytes;
  };
  const auto entries = stream.entries();
  expect_refused(with_index(3, entries[2].index), plain, length, count, "ascend");
  expect_refused(with_index(3, entries[1].index), plain, length, count, "ascend");
  expect_refused(with_index(3, entries[4].index), plain, length, count, "ascend");
  expect_refused(with_index(entries.size() - 1, length), plain, length, count, "ascend");
  expect_refused(with_index(entries.size() - 1, 0xffffffffu), plain, length, count, "ascend");
}

TEST_F(Refused, PackedCountsAndIndicesThatDoNotFit) {
  const SparseStream three(600, {{1, 1.0f}, {511, 1.0f}, {520, 1.0f}});  // counts 2, 1; indices 1, 511, 8
  const auto with_bits = [&](size_t byte, uint8_t bits) {
    Bytes bytes = written(three, packed);
    bytes[byte] ^= std::byte{bits};
    return bytes;
  };
  decode(with_bits(0, 0), packed, 600, 3, "test");
  expect_refused(with_bits(0, 1), packed, 600, 3, "bucket 1 has 1 entries");  // 3, 1
  expect_refused(with_bits(0, 3), packed, 600, 3, "too few entries");         // 1, 1
  expect_refused(with_bits(1, 2), packed, 600, 3, "bucket 0 has 514 entries");
  expect_refused(with_bits(2, 0x80), packed, 600, 3, "bits behind");  // of the counts
  expect_refused(with_bits(6, 0x80), packed, 600, 3, "bits behind");  // of the indices
  expect_refused(with_bits(6, 0x04), packed, 600, 3, "ascend");       // 776 of 600
}

TEST_F(Refused, OrReadAsSomethingElseNeverOutside) {
  std::mt19937 random(5);
  int refused = 0;
  constexpr int trials = 20'000;
  for (int trial = 0; trial < trials; ++trial) {
    const SparseForm form = with(trial % 2 ? packed : plain, trial % 3 ? Wire::f32 : Wire::bf16);
    Bytes bytes = written(stream, form);
    for (size_t flips = 1 + random() % 3; flips > 0; --flips)
      bytes[random() % bytes.size()] ^= std::byte{static_cast<uint8_t>(1u << random() % 8)};
    try {
      const SparseStream seen = decode(bytes, form, length, count, "test");
      EXPECT_EQ(seen.count(), count);
      EXPECT_LT(seen.entries().back().index, length);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::communication);
      ++refused;
    }
  }
  EXPECT_GT(refused, trials / 10);
  EXPECT_LT(refused, trials);
}

}  // namespace
}  // namespace nibble
