// The parts of a vector as f32 spans: where they lie if they lie in one piece, else copied.
//
// Codecs read and write consecutive values, while a part is pieces of many tensors.
#pragma once

#include <concepts>
#include <cstddef>
#include <limits>
#include <span>
#include <vector>

#include "comm/collectives.hpp"
#include "comm/wire_work.hpp"

namespace nibble {

inline int64_t values_of(const Pieces& pieces) { return static_cast<int64_t>(bytes_of(pieces) / sizeof(float)); }

/// Where a part's values are to be written: where they lie if that is one run, else what `memory(elements)` returns.
template <class Memory>
requires std::invocable<Memory, size_t> std::span<float> run_for(const Pieces& pieces, Memory&& memory) {
  const size_t bytes = bytes_of(pieces);
  if (const std::span<std::byte> run = one_run(pieces, 0, bytes); run.size() == bytes)
    return {reinterpret_cast<float*>(run.data()), bytes / sizeof(float)};
  return memory(bytes / sizeof(float));
}

/// A part's values, in one run; copied to what `memory(elements)` returns if they are not.
template <class Memory>
requires std::invocable<Memory, size_t> std::span<float> gathered(const WireWork& work, const Pieces& pieces,
                                                                  Memory&& memory) {
  return run_for(pieces, [&](size_t elements) {
    const std::span<float> values = memory(elements);
    work.pack(pieces, 0, std::as_writable_bytes(values));
    return values;
  });
}
/// The same in the host's memory.
template <class Memory>
requires std::invocable<Memory, size_t> std::span<float> gathered(const Pieces& pieces, Memory&& memory) {
  return gathered(WireWork(nullptr), pieces, memory);
}

/// Memory that grows to hold them.
inline auto growing(std::vector<float>& memory) {
  return [&memory](size_t elements) {
    memory.resize(std::max(memory.size(), elements));
    return std::span(memory).first(elements);
  };
}

/// The reverse; `values` may be the part's own memory.
inline void scattered(const WireWork& work, std::span<const float> values, const Pieces& pieces) {
  const std::span<std::byte> run = one_run(pieces, 0, values.size_bytes());
  if (run.size() == values.size_bytes() && run.data() == static_cast<const void*>(values.data())) return;
  work.unpack(std::as_bytes(values), pieces, 0);
}
/// The same in the host's memory.
inline void scattered(std::span<const float> values, const Pieces& pieces) {
  scattered(WireWork(nullptr), values, pieces);
}

/// What all ranks get of a sum to which one of them had nothing finite to add: it is refused by whoever looks at it.
inline void fill_with_nan(const Pieces& pieces) {
  for_each_run(pieces, 0, bytes_of(pieces), [](std::span<std::byte> run) {
    std::ranges::fill(std::span(reinterpret_cast<float*>(run.data()), run.size() / sizeof(float)),
                      std::numeric_limits<float>::quiet_NaN());
  });
}

}  // namespace nibble
