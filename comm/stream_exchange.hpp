// Sparse streams on their way between ranks.
//
// A stream's size is known only to who has it: first the headers of all messages travel, then the streams. Everything
// that comes is checked (sparse_message.hpp).
// Not for: what is summed, and in which order (sparse_allreduce.hpp).
#pragma once

#include <span>
#include <vector>

#include "comm/communicator.hpp"
#include "comm/sparse_message.hpp"

namespace nibble {

struct OutgoingStream {
  int to = 0;
  const SparseStream* stream = nullptr;
};
struct IncomingStream {
  int from = 0;
  int64_t length = 0;  ///< of the vector
};

/// Sends and receives all at once; the result is in the order of `incoming`. Throws Error{communication}.
std::vector<SparseStream> exchange_streams(Communicator& communicator, std::span<const OutgoingStream> outgoing,
                                           std::span<const IncomingStream> incoming, Wire values, uint64_t label);

/// Every rank's stream, in the order of the ranks, around their ring; rank r's vector has lengths[r] elements. With
/// Wire::bf16 this rank's own is rounded too, so that all have the same. Throws Error{communication}.
std::vector<SparseStream> gather_streams(Communicator& communicator, const SparseStream& mine,
                                         std::span<const int64_t> lengths, Wire values, uint64_t label);

/// The stream as others get it.
SparseStream as_received(SparseStream stream, Wire values);

}  // namespace nibble
