// Top-k of vectors in a device's memory, with error feedback in the same pass: which elements the host keeps
// (top_k.hpp), in its order, with its bits; and entries back into a vector.
//
// Of buckets every element is read once and written once: 12 bytes with feedback, 4 without, and 8 for each entry. Of a
// whole vector the threshold is found digit by digit: 28 and 20 bytes.
// Not for: what is remembered from step to step (error_feedback.hpp).
#pragma once

#include <cstdint>

#include "comm/collectives.hpp"
#include "comm/top_k.hpp"
#include "tensor/stream.hpp"

namespace nibble::cuda {

/// Elements that are counted together when the largest of a whole vector are looked for.
inline constexpr int64_t top_k_chunk = int64_t{1} << 14;
/// Of device memory in which that is done, nothing for buckets; on 16 bytes.
inline constexpr size_t top_k_working_bytes(const Selection& selection, int64_t length) {
  constexpr size_t of_chunk = 16, histogram_and_threshold = (size_t{8} << 12) + 16;
  if (selection.of == Selection::Of::buckets) return 0;
  return histogram_and_threshold + static_cast<size_t>((length + top_k_chunk - 1) / top_k_chunk) * of_chunk;
}

struct TopKTask {
  const float* gradient;
  int64_t length;
  Selection selection;
  Wire wire = Wire::f32;  ///< how values travel: entries have them so
  SparseEntry* entries;   ///< as many as the selection has, in ascending order
  void* working;          ///< as many bytes as top_k_working_bytes
  /// Of error feedback: what is selected from is residual + gradient, and what does not travel becomes `rest`, both on
  /// 16 bytes. Else null.
  const float* residual = nullptr;
  float* rest = nullptr;
};

[[gnu::weak]] void top_k_of_buckets(Stream& stream, const TopKTask& task);
[[gnu::weak]] void top_k_of_all(Stream& stream, const TopKTask& task);

inline void top_k(Stream& stream, const TopKTask& task) {
  if (task.selection.of == Selection::Of::all) top_k_of_all(stream, task);
  else top_k_of_buckets(stream, task);
}

/// to[entries[i].index] = entries[i].value; all else stays.
[[gnu::weak]] void put_entries(Stream& stream, const SparseEntry* entries, int64_t count, float* to);

}  // namespace nibble::cuda
