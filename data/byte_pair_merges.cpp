#include "data/byte_pair_merges.hpp"

#include <algorithm>
#include <bit>

namespace nibble {
namespace {

size_t hash_of(int32_t left, int32_t right) {
  const uint64_t pair = static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  return static_cast<size_t>((pair * 0x9E3779B97F4A7C15u) >> 20);  // 2^64 over the golden ratio; high bits are mixed
}

/// std's heaps have the largest in front: the lowest rank, then the leftmost.
bool later(const BytePairMerges::Scratch::Candidate& a, const BytePairMerges::Scratch::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

}  // namespace

BytePairMerges::BytePairMerges(std::span<const Merge> merges) : table_(std::bit_ceil(2 * merges.size() + 1)) {
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& merge = merges[rank];
    slot(merge.left, merge.right) = {merge.left, merge.right, static_cast<int32_t>(rank), merge.merged};
  }
}

BytePairMerges::Entry& BytePairMerges::slot(int32_t left, int32_t right) {
  size_t at = hash_of(left, right);
  while (true) {
    Entry& entry = table_[at++ & (table_.size() - 1)];
    if (entry.left < 0 || (entry.left == left && entry.right == right)) return entry;
  }
}

const BytePairMerges::Entry* BytePairMerges::find(int32_t left, int32_t right) const {
  for (size_t at = hash_of(left, right);; ++at) {
    const Entry& entry = table_[at & (table_.size() - 1)];
    if (entry.left < 0) return nullptr;
    if (entry.left == left && entry.right == right) return &entry;
  }
}

void BytePairMerges::push(Scratch& scratch, int32_t position) const {
  const Scratch::Symbol& symbol = scratch.symbols[static_cast<size_t>(position)];
  if (symbol.next < 0) return;
  const Entry* entry = find(symbol.id, scratch.symbols[static_cast<size_t>(symbol.next)].id);
  if (entry) scratch.queue.push_back({entry->rank, position, entry->merged});
}

void BytePairMerges::apply(std::vector<int32_t>& ids, size_t first, Scratch& scratch) const {
  const auto count = static_cast<int32_t>(ids.size() - first);
  if (count < 2 || table_.empty()) return;
  auto& [symbols, queue] = scratch;
  symbols.clear();
  queue.clear();
  for (int32_t i = 0; i < count; ++i)
    symbols.push_back({ids[first + static_cast<size_t>(i)], i - 1, i + 1 < count ? i + 1 : -1});
  for (int32_t i = 0; i < count; ++i) push(scratch, i);
  std::make_heap(queue.begin(), queue.end(), later);
  const auto push_and_sift = [&](int32_t position) {
    const size_t before = queue.size();
    push(scratch, position);
    if (queue.size() > before) std::push_heap(queue.begin(), queue.end(), later);
  };
  while (!queue.empty()) {
    const Scratch::Candidate best = queue.front();
    std::pop_heap(queue.begin(), queue.end(), later);
    queue.pop_back();
    Scratch::Symbol& symbol = symbols[static_cast<size_t>(best.position)];
    if (symbol.id < 0 || symbol.next < 0) continue;
    // A pair that has changed since it was queued is another one now, and was queued again.
    const Entry* now = find(symbol.id, symbols[static_cast<size_t>(symbol.next)].id);
    if (!now || now->rank != best.rank) continue;
    Scratch::Symbol& absorbed = symbols[static_cast<size_t>(symbol.next)];
    symbol.id = best.merged;
    symbol.next = absorbed.next;
    absorbed.id = -1;
    if (symbol.next >= 0) symbols[static_cast<size_t>(symbol.next)].previous = best.position;
    if (symbol.previous >= 0) push_and_sift(symbol.previous);
    push_and_sift(best.position);
  }
  ids.resize(first);
  for (int32_t at = 0; at >= 0; at = symbols[static_cast<size_t>(at)].next)
    ids.push_back(symbols[static_cast<size_t>(at)].id);
}

}  // namespace nibble
