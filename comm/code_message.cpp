#include "comm/code_message.hpp"

#include <algorithm>
#include <cassert>

#include "comm/code_error.hpp"

namespace nibble {
namespace {

MessageTerms header_terms(const CodeTerms& terms) {
  const CodeSource& source = terms.source;
  const uint64_t bucket = uint64_t{source.first_bucket} << 1 | (source.of == CodeSource::Of::sum);
  return {.source = source.rank,
          .ranks = terms.ranks,
          .label = uint64_t{source.step} << 33 | bucket,
          .length = terms.length};
}

uint16_t number_of(const Codec& codec) {
  const auto row = std::ranges::find(codecs(), codec.name, &Codec::name);
  return static_cast<uint16_t>(1 + (row - codecs().begin()));
}

}  // namespace

void seal_codes(std::span<std::byte> message, const CodeTerms& terms, bool has_codes) {
  const std::span<std::byte> codes = codes_in(message);
  if (!has_codes) std::ranges::fill(codes, std::byte{0});
  const MessageHeader header = write_contents({.form = form_of_codes,
                                               .finite = has_codes,
                                               .codec = number_of(terms.codec),
                                               .count = terms.agreed,
                                               .payload_bytes = codes.size(),
                                               .payload_hash = hash_of(codes)},
                                              header_terms(terms));
  std::ranges::copy(header, message.begin());
}

bool open_codes(std::span<const std::byte> message, const CodeTerms& terms) {
  const std::string where = place_of(terms.source);
  const std::span<const std::byte> header = message.first(std::min(message.size(), message_header_bytes));
  const MessageContents contents = read_contents(header, header_terms(terms), where);
  expect_in_message("a message is none of codes", where, contents.form, form_of_codes);
  expect_in_message("a message is of another codec", where, contents.codec, number_of(terms.codec));
  if (contents.values != 0 || contents.per_bucket != 0)
    refuse_message("a message is in an unknown form", where,
                   fmt::format("values {}, per bucket {}", contents.values, contents.per_bucket), "zeros");
  expect_in_message("ranks decode with other ranges", where, contents.count, terms.agreed);
  const std::span<const std::byte> codes = codes_in(message);
  expect_in_message("a message announces another number of bytes than there are", where, contents.payload_bytes,
                    uint64_t{codes.size()});
  if (contents.payload_hash != hash_of(codes))
    refuse_message("a message was changed on its way", where, "another checksum than its header's");
  return contents.finite;
}

}  // namespace nibble
