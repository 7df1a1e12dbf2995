#include "comm/message_header.hpp"

#include <xxhash.h>

#include <bit>
#include <cstring>

#include "tensor/error.hpp"

namespace nibble {
namespace {

static_assert(std::endian::native == std::endian::little);

/// A header as it lies in memory and on the wire.
struct HeaderFields {
  uint32_t magic;
  uint8_t version, form, values, finite;
  uint64_t label;
  uint16_t source, ranks, per_bucket, codec;
  uint64_t length, count, payload_bytes, payload_hash;
  uint64_t header_hash;  ///< of all before it
};
static_assert(sizeof(HeaderFields) == message_header_bytes);

constexpr uint32_t magic = 0x5353424e;  // "NBSS"
constexpr uint8_t version = 1;

uint64_t checksum_of(const HeaderFields& fields) {
  return hash_of(std::as_bytes(std::span(&fields, 1)).first(offsetof(HeaderFields, header_hash)));
}

}  // namespace

uint64_t hash_of(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

MessageHeader write_contents(const MessageContents& contents, const MessageTerms& terms) {
  HeaderFields fields{.magic = magic,
                      .version = version,
                      .form = contents.form,
                      .values = contents.values,
                      .finite = contents.finite,
                      .label = terms.label,
                      .source = static_cast<uint16_t>(terms.source),
                      .ranks = static_cast<uint16_t>(terms.ranks),
                      .per_bucket = contents.per_bucket,
                      .codec = contents.codec,
                      .length = static_cast<uint64_t>(terms.length),
                      .count = contents.count,
                      .payload_bytes = contents.payload_bytes,
                      .payload_hash = contents.payload_hash,
                      .header_hash = 0};
  fields.header_hash = checksum_of(fields);
  return std::bit_cast<MessageHeader>(fields);
}

MessageContents read_contents(std::span<const std::byte> header, const MessageTerms& terms, const std::string& where) {
  expect_in_message("a message has a header of another size", where, header.size(), message_header_bytes);
  HeaderFields fields;
  std::memcpy(&fields, header.data(), sizeof fields);
  expect_in_message("a message is none of an exchange", where, fields.magic, magic);
  expect_in_message("a message is of another version", where, fields.version, version);
  if (fields.header_hash != checksum_of(fields))
    refuse_message("the header of a message was changed on its way", where, "another checksum than the header's");
  expect_in_message("a message is from another rank", where, int{fields.source}, terms.source);
  expect_in_message("a message is of a world of another size", where, int{fields.ranks}, terms.ranks);
  expect_in_message("a message belongs to another sum", where, fields.label, terms.label);
  expect_in_message("a message is of a vector of another length", where, fields.length,
                    static_cast<uint64_t>(terms.length));
  if (fields.finite > 1)
    refuse_message("a message says neither yes nor no", where, "finite " + std::to_string(fields.finite), "0 or 1");
  return {.form = fields.form,
          .values = fields.values,
          .finite = fields.finite == 1,
          .per_bucket = fields.per_bucket,
          .codec = fields.codec,
          .count = fields.count,
          .payload_bytes = fields.payload_bytes,
          .payload_hash = fields.payload_hash};
}

void refuse_message(const char* what, const std::string& where, std::string seen, std::string allowed) {
  throw Error({.kind = ErrorKind::communication,
               .what = what,
               .where = where,
               .seen = std::move(seen),
               .allowed = std::move(allowed),
               .next = "start all ranks with the same program, settings and data; if they are, the link changes bits"});
}

}  // namespace nibble
