#include "tensor/cuda/racecheck/shadow.hpp"

#include <algorithm>

namespace nibble::cuda::racecheck {

Access AlikeAccesses::unordered_with(const Access& now) const {
  if (last.is())
    for (const Access& of : {last, in_other_block, in_other_warp, in_other_lane})
      if (unordered(of, now)) return of;
  return {};
}

void AlikeAccesses::add(const Access& now) {
  if (last.is()) {
    const bool same_block = last.block == now.block, same_phase = same_block && last.phase == now.phase,
               same_warp = same_phase && last.warp() == now.warp(),
               same_wait = same_warp && last.warp_phase == now.warp_phase;
    if (!same_block) in_other_block = last;
    if (!same_phase) in_other_warp = {};
    else if (!same_warp) in_other_warp = last;
    if (!same_wait) in_other_lane = {};
    else if (last.thread != now.thread) in_other_lane = last;
  }
  last = now;
}

Access Cell::before(const Access& now, bool writes) const {
  if (unordered(write, now)) return write;
  if (const Access other = atomics.unordered_with(now); other.is()) return other;
  return writes ? reads.unordered_with(now) : Access();
}

void Cell::add(const Access& now, bool writes) {
  if (now.atomic) return atomics.add(now);
  if (!writes) return reads.add(now);
  *this = {};
  write = now;
}

void Shadow::Page::split(size_t word) {
  if (is_split[word]) return;
  if (bytes.empty()) bytes.resize(page_words);
  bytes[word].fill(words[word]);
  is_split.set(word);
}

void Shadow::begin() {
  constexpr size_t most_pages = size_t{1} << 11;  // of 144 KiB, and four times as much more where words are split
  ++age_;
  newest_page_ = nullptr;
  if (pages_.size() > most_pages) pages_.clear();
}

Shadow::Page& Shadow::page_of(uintptr_t address) {
  const uintptr_t number = address / page_bytes;
  if (newest_page_ && newest_ == number) return *newest_page_;
  std::unique_ptr<Page>& page = pages_[number];
  if (!page) page = std::make_unique<Page>();
  if (page->age != age_) {
    page->age = age_;
    page->words.fill({});
    page->is_split.reset();
  }
  newest_ = number;
  newest_page_ = page.get();
  return *page;
}

Shadow::Seen Shadow::add(uintptr_t address, size_t bytes, const Access& now, bool writes) {
  Seen seen;
  const auto visit = [&](Cell& cell, uintptr_t at) {
    const Access before = cell.before(now, writes);
    const bool unwritten = !writes && !cell.written();
    if (!seen.address && (before.is() || unwritten)) seen.address = at;
    if (!seen.before.is()) seen.before = before;
    seen.unwritten = seen.unwritten || unwritten;
    cell.add(now, writes);
  };
  for (uintptr_t at = address, end = address + bytes; at < end;) {
    const uintptr_t word_end = std::min((at / word_bytes + 1) * word_bytes, end);
    Page& page = page_of(at);
    const size_t word = at % page_bytes / word_bytes;
    if (word_end - at < word_bytes) page.split(word);
    if (page.is_split[word])
      for (; at < word_end; ++at) visit(page.bytes[word][at % word_bytes], at);
    else visit(page.words[word], at);
    at = word_end;
  }
  return seen;
}

}  // namespace nibble::cuda::racecheck
