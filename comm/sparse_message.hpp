// A sparse stream as a message: the header of all messages, and then the stream's bytes.
//
// Whoever receives knows of a stream only the vector's length, so the header goes first.
// Not for: sending (stream_exchange.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "comm/message_header.hpp"
#include "comm/sparse_wire.hpp"

namespace nibble {

/// What a header promises.
struct StreamPromise {
  SparseForm form;
  int64_t count = 0;
  bool finite = false;  ///< no value is infinite or NaN
  uint64_t payload_hash = 0;

  bool operator==(const StreamPromise&) const = default;
};

struct StreamMessage {
  MessageHeader header;
  std::vector<std::byte> payload;
};

/// In its shortest form. The length of the terms is the stream's.
StreamMessage write_message(const SparseStream& stream, Wire values, const MessageTerms& terms);

/// Throws Error{communication} that names `where` for a header that is damaged or of another message, and for one whose
/// promise no stream of this length keeps. The payload of one that is taken has wire_bytes(form, length, count) bytes,
/// which are not more than 8 for each element.
StreamPromise read_header(std::span<const std::byte> header, const MessageTerms& terms, const std::string& where);

/// Throws Error{communication} that names `where` for bytes that are not those that were promised, and as `decode`.
SparseStream read_payload(std::span<const std::byte> payload, const StreamPromise& promise, const MessageTerms& terms,
                          const std::string& where);

}  // namespace nibble
