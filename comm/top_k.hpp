// Top-k: the elements of a vector with the largest magnitudes, of each bucket or of all of it.
//
// Exactly k, whatever the values: elements are ordered by magnitude, and of equal ones the lower index comes first. A
// NaN counts as infinite, so that it is sent and seen. The same for every number of threads.
// Not for: what happens to the elements that are left (error_feedback.hpp).
#pragma once

#include <span>

#include "comm/sparse_stream.hpp"
#include "tensor/stream.hpp"

namespace nibble {

/// Which elements of a vector are kept.
struct Selection {
  enum class Of { buckets, all };
  Of of = Of::buckets;
  int64_t k = 4;  ///< of each bucket, or of the whole vector

  /// How many of a vector of so many elements.
  int64_t entries(int64_t length) const;

  bool operator==(const Selection&) const = default;
};

/// Of every 512 elements the k <= 512 largest; of the last bucket at most all that it has.
/// Throws Error{configuration} for another k, and for a vector that check_indexable refuses.
SparseStream top_k_of_buckets(Stream& stream, std::span<const float> values, int k);

/// The k >= 1 largest of the whole vector, or all that it has. Throws as above.
SparseStream top_k(Stream& stream, std::span<const float> values, int64_t k);

/// Throws Error{configuration} unless 1 <= k <= most.
void check_top_k(int64_t k, int64_t most);

/// The same of a selection from any vector.
void check_selection(const Selection& selection);

}  // namespace nibble
