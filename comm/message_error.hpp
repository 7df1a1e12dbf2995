// What a rank says about a message that is not what it should be, over whatever transport it came.
#pragma once

#include <fmt/format.h>

#include <cstddef>

#include "tensor/error.hpp"

namespace nibble {

/// `seen` as text, since a message that is too long is cut and its length unknown.
inline Error wrong_message_size(int rank, int from, const std::string& seen, size_t expected) {
  return Error({.kind = ErrorKind::communication,
                .what = "a message has another size than its receiver expects",
                .where = fmt::format("rank {}, message from rank {}", rank, from),
                .seen = seen,
                .allowed = fmt::format("{} bytes", expected),
                .next = "start all ranks with the same program, settings and data"});
}

inline Error rank_is_gone(int rank, const std::string& seen) {
  return Error({.kind = ErrorKind::communication,
                .what = "a transfer between ranks cannot complete",
                .where = fmt::format("rank {}", rank),
                .seen = seen,
                .next = "look for the first error of the other ranks"});
}

}  // namespace nibble
