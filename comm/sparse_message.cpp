#include "comm/sparse_message.hpp"

#include <fmt/format.h>

#include <bit>
#include <cassert>

namespace nibble {
namespace {

/// Looks at all values without a branch, which is faster than to stop at the first.
bool all_finite(const SparseStream& stream) {
  constexpr uint32_t exponent = 0x7f800000;
  bool all = true;
  const auto look = [&](float value) { all = all & ((std::bit_cast<uint32_t>(value) & exponent) != exponent); };
  for (const float value : stream.values()) look(value);
  for (const SparseEntry& entry : stream.entries()) look(entry.value);
  return all;
}

}  // namespace

StreamMessage write_message(const SparseStream& stream, Wire values, const MessageTerms& terms) {
  assert(stream.length() == terms.length);
  const SparseForm form = shortest_form(stream, values);
  StreamMessage message;
  message.payload.resize(wire_bytes(form, stream.length(), stream.count()));
  encode(stream, form, message.payload);
  message.header = write_contents({.form = static_cast<uint8_t>(form.layout),
                                   .values = static_cast<uint8_t>(values),
                                   .finite = all_finite(stream),
                                   .per_bucket = static_cast<uint16_t>(form.per_bucket),
                                   .count = static_cast<uint64_t>(stream.count()),
                                   .payload_bytes = message.payload.size(),
                                   .payload_hash = hash_of(message.payload)},
                                  terms);
  return message;
}

StreamPromise read_header(std::span<const std::byte> header, const MessageTerms& terms, const std::string& where) {
  const MessageContents contents = read_contents(header, terms, where);
  if (contents.form > static_cast<uint8_t>(SparseLayout::dense) || contents.values > static_cast<uint8_t>(Wire::bf16) ||
      contents.codec != 0)
    refuse_message("a message is no stream", where,
                   fmt::format("form {}, values {}, codec {}", contents.form, contents.values, contents.codec));
  const StreamPromise promise{.form = {.layout = static_cast<SparseLayout>(contents.form),
                                       .values = static_cast<Wire>(contents.values),
                                       .per_bucket = contents.per_bucket},
                              .count = static_cast<int64_t>(contents.count),
                              .finite = contents.finite,
                              .payload_hash = contents.payload_hash};
  check_counts(promise.form, terms.length, promise.count, where);
  expect_in_message("a message announces another number of bytes than its entries need", where, contents.payload_bytes,
                    uint64_t{wire_bytes(promise.form, terms.length, promise.count)});
  return promise;
}

SparseStream read_payload(std::span<const std::byte> payload, const StreamPromise& promise, const MessageTerms& terms,
                          const std::string& where) {
  if (hash_of(payload) != promise.payload_hash)
    refuse_message("a message was changed on its way", where, "another checksum than its header's");
  SparseStream stream = decode(payload, promise.form, terms.length, promise.count, where);
  if (promise.finite && !all_finite(stream))
    refuse_message("a message has values that are not finite, though it promised none", where, "infinite or NaN");
  return stream;
}

}  // namespace nibble
