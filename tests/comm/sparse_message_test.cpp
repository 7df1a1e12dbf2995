// Messages of streams: each damage that a link or another program can do to one is refused.
#include "comm/sparse_message.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "comm/top_k.hpp"
#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

constexpr MessageTerms terms{.source = 2, .ranks = 5, .label = 77, .length = 4000};

SparseStream some_stream() {
  std::mt19937 random(1);
  std::vector<SparseEntry> entries;
  for (uint32_t i = 0; i < terms.length; ++i)
    if (random() % 40 == 0) entries.push_back({i, static_cast<float>(random())});
  return SparseStream(terms.length, std::move(entries));
}

SparseStream read(const StreamMessage& message, const MessageTerms& expected = terms) {
  const StreamPromise promise = read_header(message.header, expected, "from rank 2");
  EXPECT_EQ(message.payload.size(), wire_bytes(promise.form, expected.length, promise.count));
  return read_payload(message.payload, promise, expected, "from rank 2");
}

void expect_refused(const StreamMessage& message, const std::string& text, const MessageTerms& expected = terms) {
  expect_error(ErrorKind::communication, {text, "from rank 2"}, [&] { read(message, expected); });
}

TEST(SparseMessage, ReadsWhatWasWritten) {
  const SparseStream stream = some_stream();
  EXPECT_EQ(read(write_message(stream, Wire::f32, terms)), stream);
  SparseStream dense = stream;
  dense.make_dense();
  EXPECT_EQ(read(write_message(dense, Wire::f32, terms)), dense);
  EXPECT_EQ(read(write_message(SparseStream(terms.length), Wire::bf16, terms)), SparseStream(terms.length));
}

TEST(SparseMessage, IsRefusedByWhomItIsNotMeantFor) {
  const StreamMessage message = write_message(some_stream(), Wire::f32, terms);
  const auto with = [](auto change) {
    MessageTerms other = terms;
    change(other);
    return other;
  };
  expect_refused(message, "another rank", with([](MessageTerms& t) { t.source = 3; }));
  expect_refused(message, "another size", with([](MessageTerms& t) { t.ranks = 4; }));
  expect_refused(message, "another sum", with([](MessageTerms& t) { t.label = 76; }));
  expect_refused(message, "another length", with([](MessageTerms& t) { t.length = 4001; }));
}

TEST(SparseMessage, IsRefusedWithAnyBitOfItsHeaderChanged) {
  const StreamMessage message = write_message(some_stream(), Wire::f32, terms);
  for (size_t bit = 0; bit < 8 * message_header_bytes; ++bit) {
    StreamMessage changed = message;
    changed.header[bit / 8] ^= std::byte{static_cast<uint8_t>(1u << bit % 8)};
    expect_refused(changed, "");
  }
  for (size_t bytes = 0; bytes < message_header_bytes; ++bytes)
    expect_error(ErrorKind::communication, {"another size", "64"},
                 [&] { read_header(std::span(message.header).first(bytes), terms, "from rank 2"); });
}

TEST(SparseMessage, IsRefusedWithAnyBitsOfItsStreamChanged) {
  std::mt19937 random(2);
  for (const Wire values : {Wire::f32, Wire::bf16}) {
    const StreamMessage message = write_message(some_stream(), values, terms);
    for (int trial = 0; trial < 3000; ++trial) {
      StreamMessage changed = message;
      for (size_t flips = 1 + random() % 4; flips > 0; --flips)
        changed.payload[random() % changed.payload.size()] ^= std::byte{static_cast<uint8_t>(1u << random() % 8)};
      if (changed.payload != message.payload) expect_refused(changed, "changed on its way");
    }
    StreamMessage swapped = message;
    std::swap(swapped.payload.front(), swapped.payload.back());
    expect_refused(swapped, "changed on its way");
    for (StreamMessage cut = message; !cut.payload.empty();) {
      cut.payload.pop_back();
      const StreamPromise promise = read_header(cut.header, terms, "from rank 2");
      expect_error(ErrorKind::communication, {"from rank 2"},
                   [&] { read_payload(cut.payload, promise, terms, "from rank 2"); });
    }
  }
}

// A message that is consistent in itself, of which the promise alone is wrong.
TEST(SparseMessage, IsRefusedIfItBreaksItsPromiseOfFiniteValues) {
  SparseStream stream = some_stream();
  const auto with_last = [&](float value) {
    std::vector<SparseEntry> entries(stream.entries().begin(), stream.entries().end());
    entries.back().value = value;
    return SparseStream(terms.length, std::move(entries));
  };
  for (const float value : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    const StreamMessage message = write_message(with_last(value), Wire::f32, terms);
    StreamPromise promise = read_header(message.header, terms, "from rank 2");
    EXPECT_FALSE(promise.finite);
    EXPECT_EQ(read_payload(message.payload, promise, terms, "from rank 2").count(), stream.count());
    promise.finite = true;
    expect_error(ErrorKind::communication, {"not finite", "from rank 2"},
                 [&] { read_payload(message.payload, promise, terms, "from rank 2"); });
  }
  EXPECT_TRUE(read_header(write_message(stream, Wire::f32, terms).header, terms, "").finite);
}

TEST(SparseMessage, IsNeverLargerThanWhatTopKNeeds) {
  Stream stream(1);
  std::mt19937 random(3);
  std::vector<float> values(1 << 16);
  for (float& value : values) value = static_cast<float>(random()) - 2e9f;
  const MessageTerms all{.source = 0, .ranks = 1, .label = 0, .length = 1 << 16};
  const StreamMessage message = write_message(top_k_of_buckets(stream, values, 4), Wire::f32, all);
  EXPECT_EQ(message.payload.size(), 128u * 4 * 41 / 8);
  EXPECT_EQ(write_message(top_k_of_buckets(stream, values, 4), Wire::bf16, all).payload.size(), 128u * 4 * 25 / 8);
}

}  // namespace
}  // namespace nibble
