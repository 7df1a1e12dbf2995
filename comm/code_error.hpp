// What is said of codes that are not what an encoder writes.
#pragma once

#include <fmt/format.h>

#include <string>

#include "comm/code_source.hpp"
#include "comm/codec.hpp"
#include "tensor/error.hpp"

namespace nibble {

inline std::string place_of(const CodeSource& source) {
  return fmt::format("from rank {}, step {}, bucket {}", source.rank, source.step, source.first_bucket);
}

[[noreturn]] inline void refuse_message(const CodeSource& source, const std::string& seen, const std::string& allowed) {
  throw Error({.kind = ErrorKind::communication,
               .what = "a message of gradient codes is damaged",
               .where = place_of(source),
               .seen = seen,
               .allowed = allowed,
               .next = "start all ranks with the same program and settings; if they had, look at the network"});
}

inline void check_message_size(const Codec& codec, int64_t values, size_t bytes, const CodeSource& source) {
  if (bytes != codec.bytes_of(values))
    refuse_message(source, fmt::format("{} bytes", bytes),
                   fmt::format("{} bytes for {} values of codec {}", codec.bytes_of(values), values, codec.name));
}

}  // namespace nibble
