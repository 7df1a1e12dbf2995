// Codes of a vector as a message: the header of all messages and the codes behind it, in one piece.
//
// Unlike streams, both sides know how long they are. Values that have no codes are said to have none.
// Not for: the codes (bucket_codec.hpp, correlated_codec.hpp, lattice_codec.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "comm/code_source.hpp"
#include "comm/codec.hpp"
#include "comm/message_header.hpp"

namespace nibble {

/// What both sides know of such a message before it is sent.
struct CodeTerms {
  const Codec& codec;
  CodeSource source;  ///< of the first code; its rank is the sender
  int ranks = 1;
  int64_t length = 0;   ///< values, or sums of codes
  uint64_t agreed = 0;  ///< hash of what all ranks have agreed on and decode with: ranges, a distance

  CodeTerms of_sum() const { return {codec, source.of_sum(), ranks, length, agreed}; }
};

constexpr size_t code_message_bytes(size_t bytes_of_codes) { return message_header_bytes + bytes_of_codes; }

template <class Byte>
std::span<Byte> codes_in(std::span<Byte> message) {
  return message.subspan(message_header_bytes);
}

/// Writes the header of codes that lie in the message already; without any it fills them with zeros.
void seal_codes(std::span<std::byte> message, const CodeTerms& terms, bool has_codes = true);

/// Whether there are codes. Throws Error{communication} for a message that is damaged or another one.
[[nodiscard]] bool open_codes(std::span<const std::byte> message, const CodeTerms& terms);

}  // namespace nibble
