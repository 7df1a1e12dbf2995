// Messages of codes: each damage that a link or another program can do to one is refused (the list of the exchange's
// specification), before a code of it is decoded.
#include "comm/code_message.hpp"

#include <gtest/gtest.h>

#include <random>

#include "comm/code_error.hpp"
#include "comm/sparse_message.hpp"
#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

using Message = std::vector<std::byte>;

const Codec& codec() {
  static const Codec row = codec_named("maxmin-4", 256, "test");
  return row;
}

CodeTerms terms() {
  return {.codec = codec(),
          .source = {.seed = 1, .step = 70, .first_bucket = 9, .rank = 2},
          .ranks = 5,
          .length = 4000,
          .agreed = 11};
}

Message some_message(bool has_codes = true) {
  Message message(code_message_bytes(2000));
  std::mt19937 random(1);
  for (std::byte& byte : codes_in(std::span(message))) byte = static_cast<std::byte>(random());
  seal_codes(message, terms(), has_codes);
  return message;
}

void expect_refused(const Message& message, const std::string& text, const CodeTerms& expected = terms()) {
  expect_error(ErrorKind::communication, {text, place_of(expected.source)},
               [&] { (void)open_codes(message, expected); });
}

TEST(CodeMessage, IsOpenedByWhomItIsMeantFor) {
  EXPECT_TRUE(open_codes(some_message(), terms()));
  const Message none = some_message(false);
  EXPECT_FALSE(open_codes(none, terms()));
  for (const std::byte byte : codes_in(std::span(none))) ASSERT_EQ(byte, std::byte{0});
}

TEST(CodeMessage, IsRefusedByEverybodyElse) {
  const auto with = [](auto change) {
    CodeTerms other = terms();
    change(other);
    return other;
  };
  const Message message = some_message();
  expect_refused(message, "another rank", with([](CodeTerms& t) { t.source.rank = 3; }));
  expect_refused(message, "another size", with([](CodeTerms& t) { t.ranks = 4; }));
  expect_refused(message, "another sum", with([](CodeTerms& t) { t.source.step = 69; }));  // a step is not replayed
  expect_refused(message, "another sum", with([](CodeTerms& t) { t.source.first_bucket = 8; }));
  expect_refused(message, "another sum", terms().of_sum());
  expect_refused(message, "another length", with([](CodeTerms& t) { t.length = 3999; }));
  expect_refused(message, "other ranges", with([](CodeTerms& t) { t.agreed = 12; }));
  const Codec other = codec_named("qsgd-4", 256, "test");
  expect_refused(message, "another codec",
                 {.codec = other, .source = terms().source, .ranks = 5, .length = 4000, .agreed = 11});
}

TEST(CodeMessage, IsRefusedCutAtAnyLength) {
  for (Message message = some_message(); !message.empty();) {
    message.pop_back();
    expect_refused(message, "");
  }
}

TEST(CodeMessage, IsRefusedWithAnyBitOfItsHeaderChanged) {
  const Message message = some_message();
  for (size_t bit = 0; bit < 8 * message_header_bytes; ++bit) {
    Message changed = message;
    changed[bit / 8] ^= std::byte{static_cast<uint8_t>(1u << bit % 8)};
    expect_refused(changed, "");
  }
}

TEST(CodeMessage, IsRefusedWithAnyBitsOfItsCodesChanged) {
  const Message message = some_message();
  std::mt19937 random(2);
  for (int trial = 0; trial < 100'000; ++trial) {
    Message changed = message;
    for (size_t flips = 1 + random() % 4; flips > 0; --flips)
      changed[message_header_bytes + random() % 2000] ^= std::byte{static_cast<uint8_t>(1u << random() % 8)};
    if (changed == message) continue;
    try {
      (void)open_codes(changed, terms());
      FAIL() << "a changed message was taken";
    } catch (const Error& error) {
      ASSERT_EQ(error.kind(), ErrorKind::communication);
    }
  }
}

TEST(CodeMessage, IsNoStream) {
  const SparseStream stream(4000);
  const MessageTerms as_stream{.source = 2, .ranks = 5, .label = 1, .length = 4000};
  const Message message = some_message();
  expect_error(ErrorKind::communication, {"another sum"},
               [&] { read_header(std::span(message).first(message_header_bytes), as_stream, "test"); });
  const StreamMessage other = write_message(stream, Wire::f32, {.source = 2, .ranks = 5, .label = 0, .length = 4000});
  const CodeTerms first{.codec = codec(), .source = {.rank = 2}, .ranks = 5, .length = 4000};
  expect_refused({other.header.begin(), other.header.end()}, "none of codes", first);
}

}  // namespace
}  // namespace nibble
