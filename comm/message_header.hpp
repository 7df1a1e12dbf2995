// What stands before every message of an exchange: whose it is, of which sum, what follows, and checksums of both.
//
// What came from another rank is looked at before it is used: that it is meant for this sum and this vector, that ranks
// agree on what they must know beforehand, and that no bit has changed.
// Not for: what follows (sparse_message.hpp, code_message.hpp).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace nibble {

/// What both sides know before a message is sent.
struct MessageTerms {
  int source = 0;      ///< the rank that sends it
  int ranks = 1;       ///< of the world
  uint64_t label = 0;  ///< of the sum, so that none is taken for an earlier one
  int64_t length = 0;  ///< elements of the vector
};

/// What a header says of the bytes behind it.
struct MessageContents {
  uint8_t form = 0;         ///< of a stream its SparseLayout, else form_of_codes
  uint8_t values = 0;       ///< of a stream: how they travel
  bool finite = false;      ///< no value is infinite or NaN; codes: there are some
  uint16_t per_bucket = 0;  ///< of a stream
  uint16_t codec = 0;       ///< of codes: their row of codecs(), from 1 on
  uint64_t count = 0;       ///< entries of a stream; of codes a hash of what ranks agreed on before
  uint64_t payload_bytes = 0, payload_hash = 0;
};

inline constexpr uint8_t form_of_codes = 3;

inline constexpr size_t message_header_bytes = 64;
using MessageHeader = std::array<std::byte, message_header_bytes>;

uint64_t hash_of(std::span<const std::byte> bytes);

MessageHeader write_contents(const MessageContents& contents, const MessageTerms& terms);

/// Throws Error{communication} that names `where` for a header that is damaged or of another message. What it says of
/// the contents is what was written, and may still make no sense.
MessageContents read_contents(std::span<const std::byte> header, const MessageTerms& terms, const std::string& where);

/// Error{communication} of a message that is not what its receiver may take.
[[noreturn]] void refuse_message(const char* what, const std::string& where, std::string seen,
                                 std::string allowed = {});
template <class T>
void expect_in_message(const char* what, const std::string& where, T seen, T expected) {
  if (seen != expected) refuse_message(what, where, std::to_string(seen), std::to_string(expected));
}

}  // namespace nibble
