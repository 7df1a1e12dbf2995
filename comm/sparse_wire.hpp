// The bytes of a sparse stream: indices of 32 bits or packed ones, then values.
//
// Packed indices count within buckets of 512 elements, 9 bits each, behind the buckets' numbers of entries, 10 bits
// each; those are left out where every bucket has the same number (all but its last one, which may be shorter), as
// Top-k makes it. Little-endian; every section begins with a byte of its own and its padding is zero.
// Not for: who sent it and whether it is what was awaited (sparse_message.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "comm/collectives.hpp"
#include "comm/sparse_stream.hpp"

namespace nibble {

enum class SparseLayout : uint8_t { plain, packed, dense };

/// What, with the vector's length and the number of entries, determines the number of bytes.
struct SparseForm {
  SparseLayout layout = SparseLayout::plain;
  Wire values = Wire::f32;
  /// Of packed: every bucket has so many entries, or all its elements if it has fewer. 0: each says its own number.
  int per_bucket = 0;

  bool operator==(const SparseForm&) const = default;
};

constexpr int64_t buckets_of(int64_t length) { return (length + bucket_elements - 1) / bucket_elements; }

/// Entries of a vector of which every bucket has `per_bucket`.
constexpr int64_t entries_of_buckets(int64_t length, int64_t per_bucket) {
  const int64_t full = length / bucket_elements, rest = length % bucket_elements;
  return full * (per_bucket < bucket_elements ? per_bucket : bucket_elements) + (per_bucket < rest ? per_bucket : rest);
}

/// Of `count` entries of a vector; dense: count = length.
constexpr size_t wire_bytes(const SparseForm& form, int64_t length, int64_t count) {
  const size_t values = static_cast<size_t>(count) * (form.values == Wire::bf16 ? 2 : 4);
  if (form.layout == SparseLayout::dense) return values;
  if (form.layout == SparseLayout::plain) return static_cast<size_t>(count) * sizeof(uint32_t) + values;
  const int64_t counts = form.per_bucket > 0 ? 0 : 10 * buckets_of(length);
  return static_cast<size_t>((counts + 7) / 8 + (9 * count + 7) / 8) + values;
}

/// The shortest of what the stream can be written in.
SparseForm shortest_form(const SparseStream& stream, Wire values);

/// bytes = the stream, bytes.size() = wire_bytes(form, its length, its count). Values are rounded to nearest for bf16.
/// Sparse streams are written plain or packed, dense ones dense.
void encode(const SparseStream& stream, const SparseForm& form, std::span<std::byte> bytes);

/// Throws Error{communication} that names `where` unless a vector of this length can have so many entries in this form.
void check_counts(const SparseForm& form, int64_t length, int64_t count, const std::string& where);

/// What was written. Refuses everything that `encode` does not write, with an Error{communication} that names `where`:
/// another number of bytes, more entries than elements, indices that do not ascend or lie outside, padding that is not
/// zero. Memory is taken only for what the bytes hold.
SparseStream decode(std::span<const std::byte> bytes, const SparseForm& form, int64_t length, int64_t count,
                    const std::string& where);

}  // namespace nibble
