// A vector that lies in several pieces of memory, addressed as one.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

namespace nibble {

/// In order; of any size, empty too.
using Pieces = std::vector<std::span<std::byte>>;

inline size_t bytes_of(const Pieces& pieces) {
  size_t bytes = 0;
  for (const std::span<std::byte> piece : pieces) bytes += piece.size();
  return bytes;
}

/// One more piece; where it lies behind the last one, that becomes longer.
inline void append(Pieces& pieces, std::span<std::byte> piece) {
  if (!pieces.empty() && pieces.back().data() + pieces.back().size() == piece.data())
    pieces.back() = {pieces.back().data(), pieces.back().size() + piece.size()};
  else pieces.push_back(piece);
}

/// Calls run(memory) for each contiguous part of bytes [first, first + count), in order.
template <class Run>
void for_each_run(const Pieces& pieces, size_t first, size_t count, Run&& run) {
  for (const std::span<std::byte> piece : pieces) {
    if (count == 0) return;
    if (first >= piece.size()) {
      first -= piece.size();
      continue;
    }
    const size_t length = std::min(count, piece.size() - first);
    run(piece.subspan(first, length));
    first = 0;
    count -= length;
  }
}

/// Bytes [first, first + count) where they lie if that is one run, else empty.
inline std::span<std::byte> one_run(const Pieces& pieces, size_t first, size_t count) {
  std::span<std::byte> found;
  for_each_run(pieces, first, count, [&](std::span<std::byte> run) {
    if (run.size() == count) found = run;
  });
  return found;
}

/// packed = bytes [first, first + packed.size()).
inline void pack(const Pieces& pieces, size_t first, std::span<std::byte> packed) {
  for_each_run(pieces, first, packed.size(), [&](std::span<std::byte> run) {
    std::memcpy(packed.data(), run.data(), run.size());
    packed = packed.subspan(run.size());
  });
}

/// Bytes [first, first + packed.size()) = packed.
inline void unpack(std::span<const std::byte> packed, const Pieces& pieces, size_t first) {
  for_each_run(pieces, first, packed.size(), [&](std::span<std::byte> run) {
    std::memcpy(run.data(), packed.data(), run.size());
    packed = packed.subspan(run.size());
  });
}

}  // namespace nibble
