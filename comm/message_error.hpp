// What a rank says when a message is not what it should be or does not come, over whatever transport.
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <string>

#include "tensor/error.hpp"

namespace nibble {

inline Error wrong_message_size(int rank, int from, size_t seen, size_t expected) {
  return Error({.kind = ErrorKind::communication,
                .what = "a message has another size than its receiver expects",
                .where = fmt::format("rank {}, message from rank {}", rank, from),
                .seen = fmt::format("{} bytes", seen),
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
