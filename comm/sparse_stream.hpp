// A vector of which few elements matter: their indices and values, or all values once that is shorter.
//
// Which of the two it is, a flag says and not the number of entries. Streams are summed, cut and joined here as SparCML
// does it (Renggli et al., "SparCML: high-performance sparse communication for machine learning", SC 2019, arXiv
// 1802.08021). An element without an entry is zero; the sign of a zero is not kept.
// Not for: bytes of messages (sparse_wire.hpp), what goes between ranks (sparse_allreduce.hpp).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace nibble {

/// Elements of a bucket: what one Top-k selects from, and within which a packed index counts.
inline constexpr int64_t bucket_elements = 512;

struct SparseEntry {
  uint32_t index = 0;
  float value = 0;

  bool operator==(const SparseEntry&) const = default;
};

class SparseStream {
 public:
  /// Sparse, with nothing in it: `length` zeros.
  explicit SparseStream(int64_t length = 0) : length_(length) {}
  /// Dense.
  explicit SparseStream(std::vector<float> values)
      : length_(static_cast<int64_t>(values.size())), dense_(true), values_(std::move(values)) {}
  /// Sparse; indices ascend strictly and are below `length`.
  SparseStream(int64_t length, std::vector<SparseEntry> entries);

  /// The same for entries of which nobody has made sure. Throws Error{communication} that names `where` if the length
  /// is beyond what 32 bits index, or an index does not ascend or lies outside.
  static SparseStream checked(int64_t length, std::vector<SparseEntry> entries, const std::string& where);

  /// Elements of the vector.
  int64_t length() const { return length_; }
  bool dense() const { return dense_; }
  /// What is carried: entries, or all elements.
  int64_t count() const { return static_cast<int64_t>(dense_ ? values_.size() : entries_.size()); }
  /// Of a sparse stream.
  std::span<const SparseEntry> entries() const { return entries_; }
  /// Of a dense stream.
  std::span<const float> values() const { return values_; }
  std::span<float> values() { return values_; }

  void make_dense();
  /// all[i] = element i, for all.size() = length.
  void write(std::span<float> all) const;
  /// all[i] += element i.
  void add_to(std::span<float> all) const;

  bool operator==(const SparseStream&) const = default;

 private:
  int64_t length_;
  bool dense_ = false;
  std::vector<SparseEntry> entries_;
  std::vector<float> values_;
};

/// Throws Error{configuration} for a vector whose elements 32 bits do not index.
void check_indexable(int64_t length);

/// The number of entries from which on a dense vector is not longer: length value_bytes / (index_bytes + value_bytes).
constexpr int64_t dense_switch(int64_t length, int64_t index_bytes = sizeof(uint32_t),
                               int64_t value_bytes = sizeof(float)) {
  return (length * value_bytes + index_bytes + value_bytes - 1) / (index_bytes + value_bytes);
}

/// lower + higher, of equal length; the values of the lower rank stand first in every addition. Dense as soon as either
/// is, or the entries of both reach dense_switch, whether or not they share indices. What cancels stays as a zero.
SparseStream sum(const SparseStream& lower, const SparseStream& higher);

/// Elements [first, first + count), counted from `first`. A sparse part is dense if its entries reach its own switch.
SparseStream part_of(const SparseStream& stream, int64_t first, int64_t count);

/// The parts one behind the other; dense if one of them is, or their entries reach dense_switch.
SparseStream concatenate(std::span<const SparseStream> parts);

}  // namespace nibble
