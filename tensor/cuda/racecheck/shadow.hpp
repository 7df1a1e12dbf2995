// Who touched which byte of memory, and whether two accesses had an order.
//
// Barriers order the threads of a block, order_lanes() those of a warp, and nothing orders the blocks of a grid.
// Shuffles and products of a warp order no accesses to memory (CUDA C++ Programming Guide, "Warp Shuffle Functions":
// they do not imply a memory barrier). Not for: where memory is (racecheck.cpp).
#pragma once

#include <array>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

namespace nibble::cuda::racecheck {

struct Access {
  uint32_t block = 0;       ///< number in its grid
  uint16_t thread = 0;      ///< number in its block
  uint16_t phase = 0;       ///< barriers before it
  uint16_t warp_phase = 0;  ///< waits of its warp before it
  bool atomic = false;
  uint32_t code = 0;  ///< where it stands in the program; 0: there was no access

  bool is() const { return code != 0; }
  unsigned warp() const { return thread / 32u; }
};

/// Whether one of two may come before or after the other.
inline bool unordered(const Access& a, const Access& b) {
  if (!a.is() || !b.is() || (a.atomic && b.atomic)) return false;
  if (a.block != b.block) return true;
  return a.phase == b.phase && a.thread != b.thread && (a.warp() != b.warp() || a.warp_phase == b.warp_phase);
}

/// Accesses that need no order among themselves. For all of them stand the last one; the last of another block; between
/// the last one's barriers the last of another warp; and between the waits of its warp that of another lane.
struct AlikeAccesses {
  Access last, in_other_block, in_other_warp, in_other_lane;

  /// One that `now` has no order with; else one that is none.
  Access unordered_with(const Access& now) const;
  void add(const Access& now);
};

/// What is known of some bytes. The last write that is not atomic stands for all that was before it: what has no order
/// with that has none with it, or was found when it was written. An atomic one writes and stands for itself alone,
/// because others need no order with it.
struct Cell {
  Access write;
  AlikeAccesses reads, atomics;  ///< since then

  bool written() const { return write.is() || atomics.last.is(); }
  /// An earlier access that `now` has no order with, though one of both writes; else one that is none.
  Access before(const Access& now, bool writes) const;
  void add(const Access& now, bool writes);
};

class Shadow {
 public:
  struct Seen {
    Access before;           ///< without an order, if it is any
    uintptr_t address = 0;   ///< of what follows: the first byte that this is about
    bool unwritten = false;  ///< some of it was read and never written
  };

  /// Forgets all accesses.
  void begin();
  /// Adds one.
  Seen add(uintptr_t address, size_t bytes, const Access& now, bool writes);

 private:
  static constexpr size_t page_bytes = 4096, word_bytes = 4, page_words = page_bytes / word_bytes;
  /// Cells of words; and of bytes for words that were touched in part.
  struct Page {
    uint64_t age = 0;
    std::array<Cell, page_words> words{};
    std::bitset<page_words> is_split{};
    std::vector<std::array<Cell, word_bytes>> bytes{};

    void split(size_t word);
  };
  Page& page_of(uintptr_t address);

  uint64_t age_ = 1;
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages_;
  uintptr_t newest_ = 0;
  Page* newest_page_ = nullptr;
};

}  // namespace nibble::cuda::racecheck
