// Byte-pair encoding: neighbours are merged, the pair of the lowest rank first, the leftmost of equals first.
//
// Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword Units", arXiv 1508.07909, as GPT-2
// applies it to bytes. A piece of n bytes takes n log n steps. Not for: cutting text into pieces (split_pattern.hpp).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nibble {

class BytePairMerges {
 public:
  struct Merge {
    int32_t left = 0, right = 0, merged = 0;  ///< token ids
  };
  /// Working memory of `apply`, for pieces in turn.
  struct Scratch {
    struct Symbol {
      int32_t id, previous, next;  ///< neighbours by index, -1 at the ends; id -1: merged into the one before
    };
    struct Candidate {
      int32_t rank, position, merged;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> queue;
  };

  BytePairMerges() = default;
  /// Each merge's rank is its index; of a pair that comes twice the last one counts. No id is negative.
  explicit BytePairMerges(std::span<const Merge> merges);

  /// Merges `ids`, from `first` on, in place.
  void apply(std::vector<int32_t>& ids, size_t first, Scratch& scratch) const;

 private:
  struct Entry {
    int32_t left = -1, right = -1, rank = 0, merged = 0;
  };
  Entry& slot(int32_t left, int32_t right);
  const Entry* find(int32_t left, int32_t right) const;
  void push(Scratch& scratch, int32_t position) const;

  std::vector<Entry> table_;  ///< open addressing, at most half full; a power of two
};

}  // namespace nibble
