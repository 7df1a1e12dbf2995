// Drops what was there before: near-duplicate documents, and lines that stood in an earlier document.
//
// Documents: MinHash over hashed 5-word shingles (Broder, "On the resemblance and containment of documents", 1997), 20
// bands of 6 rows; a document whose estimated Jaccard similarity with an earlier one is at least 0.8 is dropped.
// Documents are compared as they were read, before lines are dropped, and never with near-duplicates that were dropped.
// A pair at 0.8 shares a band with probability 1 - (1 - 0.8^6)^20 = 0.998, one at 0.5 with 0.27. Documents of fewer
// than 5 words are kept: they have no shingle.
//
// Lines: a line of at least 20 bytes (after trimming) that stood in an earlier document is dropped; shorter ones carry
// structure ("}", "---") and stay. Repetitions within a document stay: they are its own. Pairs of prompt and completion
// are only compared as a whole.
//
// The first of equals is kept, so the result depends on the order of the input and on nothing else. Memory grows by
// about 2.5 KB for each document that is no near-duplicate and 44 bytes for each distinct long line (measured, g++ 12).
// Lines are told apart by 64-bit hashes.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "data/documents.hpp"

namespace nibble {

struct DeduplicationCounts {
  int64_t documents_before = 0, documents_after = 0;
  int64_t bytes_before = 0, bytes_after = 0;
  int64_t near_duplicates = 0;  ///< documents dropped as near-duplicates
  int64_t lines_dropped = 0;
  int64_t emptied = 0;  ///< documents dropped because no line was left
};

class Deduplicator {
 public:
  Deduplicator();

  /// Takes repeated lines out of the document; false when the document is to be dropped as a whole.
  bool keep(Document& document);
  const DeduplicationCounts& counts() const { return counts_; }

  static constexpr int bands = 20, rows = 6, hashes = bands * rows;
  static constexpr int words_in_shingle = 5;
  static constexpr double threshold = 0.8;
  static constexpr size_t shortest_line = 20;

  using Signature = std::array<uint32_t, hashes>;
  /// False when the text has fewer words than a shingle.
  bool signature(std::string_view text, Signature& result) const;
  static double similarity(const Signature& a, const Signature& b);

 private:
  bool near_duplicate(const Document& document);
  void drop_repeated_lines(std::string& text);

  std::array<uint64_t, hashes> multipliers_, increments_;
  std::vector<Signature> signatures_;
  std::array<std::unordered_map<uint64_t, std::vector<uint32_t>>, bands> buckets_;  // band hash -> signatures
  std::unordered_set<uint64_t> lines_;
  DeduplicationCounts counts_;
};

}  // namespace nibble
