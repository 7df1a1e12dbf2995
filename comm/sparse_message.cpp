#include "comm/sparse_message.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <bit>
#include <cassert>
#include <cstring>

#include "tensor/error.hpp"

namespace nibble {
namespace {

static_assert(std::endian::native == std::endian::little);

/// A header as it lies in memory and on the wire.
struct HeaderFields {
  uint32_t magic;
  uint8_t version, layout, values, finite;
  uint64_t label;
  uint16_t source, ranks, per_bucket, reserved;
  uint64_t length, count, payload_bytes, payload_hash;
  uint64_t header_hash;  ///< of all before it
};
static_assert(sizeof(HeaderFields) == message_header_bytes);

constexpr uint32_t magic = 0x5353424e;  // "NBSS"
constexpr uint8_t version = 1;

uint64_t hash_of(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

uint64_t hash_of(const HeaderFields& fields) {
  return hash_of(std::as_bytes(std::span(&fields, 1)).first(offsetof(HeaderFields, header_hash)));
}

/// Looks at all values without a branch, which is faster than to stop at the first.
bool all_finite(const SparseStream& stream) {
  constexpr uint32_t exponent = 0x7f800000;
  bool all = true;
  const auto look = [&](float value) { all = all & ((std::bit_cast<uint32_t>(value) & exponent) != exponent); };
  for (const float value : stream.values()) look(value);
  for (const SparseEntry& entry : stream.entries()) look(entry.value);
  return all;
}

[[noreturn]] void refuse(const char* what, const std::string& where, std::string seen, std::string allowed = {}) {
  throw Error({.kind = ErrorKind::communication,
               .what = what,
               .where = where,
               .seen = std::move(seen),
               .allowed = std::move(allowed),
               .next = "start all ranks with the same program, settings and data; if they are, the link changes bits"});
}

template <class T>
void expect(const char* what, const std::string& where, T seen, T expected) {
  if (seen != expected) refuse(what, where, std::to_string(seen), std::to_string(expected));
}

}  // namespace

StreamMessage write_message(const SparseStream& stream, Wire values, const MessageTerms& terms) {
  assert(stream.length() == terms.length);
  const SparseForm form = shortest_form(stream, values);
  StreamMessage message;
  message.payload.resize(wire_bytes(form, stream.length(), stream.count()));
  encode(stream, form, message.payload);
  HeaderFields fields{.magic = magic,
                      .version = version,
                      .layout = static_cast<uint8_t>(form.layout),
                      .values = static_cast<uint8_t>(values),
                      .finite = all_finite(stream),
                      .label = terms.label,
                      .source = static_cast<uint16_t>(terms.source),
                      .ranks = static_cast<uint16_t>(terms.ranks),
                      .per_bucket = static_cast<uint16_t>(form.per_bucket),
                      .reserved = 0,
                      .length = static_cast<uint64_t>(stream.length()),
                      .count = static_cast<uint64_t>(stream.count()),
                      .payload_bytes = message.payload.size(),
                      .payload_hash = hash_of(message.payload),
                      .header_hash = 0};
  fields.header_hash = hash_of(fields);
  std::memcpy(message.header.data(), &fields, sizeof fields);
  return message;
}

StreamPromise read_header(std::span<const std::byte> header, const MessageTerms& terms, const std::string& where) {
  expect("a message has a header of another size", where, header.size(), message_header_bytes);
  HeaderFields fields;
  std::memcpy(&fields, header.data(), sizeof fields);
  expect("a message is no stream", where, fields.magic, magic);
  expect("a message is of another version", where, fields.version, version);
  if (fields.header_hash != hash_of(fields))
    refuse("the header of a message was changed on its way", where, "another checksum than the header's");
  expect("a message is from another rank", where, int{fields.source}, terms.source);
  expect("a message is of a world of another size", where, int{fields.ranks}, terms.ranks);
  expect("a message belongs to another sum", where, fields.label, terms.label);
  expect("a message is of a vector of another length", where, fields.length, static_cast<uint64_t>(terms.length));
  if (fields.layout > static_cast<uint8_t>(SparseLayout::dense) || fields.values > static_cast<uint8_t>(Wire::bf16) ||
      fields.finite > 1 || fields.reserved != 0)
    refuse("a message is in an unknown form", where,
           fmt::format("layout {}, values {}, finite {}, reserved {}", fields.layout, fields.values, fields.finite,
                       fields.reserved));
  const StreamPromise promise{.form = {.layout = static_cast<SparseLayout>(fields.layout),
                                       .values = static_cast<Wire>(fields.values),
                                       .per_bucket = fields.per_bucket},
                              .count = static_cast<int64_t>(fields.count),
                              .finite = fields.finite == 1,
                              .payload_hash = fields.payload_hash};
  check_counts(promise.form, terms.length, promise.count, where);
  expect("a message announces another number of bytes than its entries need", where, fields.payload_bytes,
         uint64_t{wire_bytes(promise.form, terms.length, promise.count)});
  return promise;
}

SparseStream read_payload(std::span<const std::byte> payload, const StreamPromise& promise, const MessageTerms& terms,
                          const std::string& where) {
  if (hash_of(payload) != promise.payload_hash)
    refuse("a message was changed on its way", where, "another checksum than its header's");
  SparseStream stream = decode(payload, promise.form, terms.length, promise.count, where);
  if (promise.finite && !all_finite(stream))
    refuse("a message has values that are not finite, though it promised none", where, "infinite or NaN");
  return stream;
}

}  // namespace nibble
