#include "tensor/cuda/racecheck/shadow.hpp"

#include <algorithm>

namespace nibble::cuda::racecheck {

Access Cell::before(const Access& now, bool writes) const {
  if (unordered(write, now)) return write;
  if (writes)
    for (const Access& of : {read, read_in_other_block, read_in_other_warp, read_in_other_lane})
      if (unordered(of, now)) return of;
  return {};
}

void Cell::add(const Access& now, bool writes) {
  if (writes) {
    *this = {};
    write = now;
    return;
  }
  if (read.is()) {
    const bool same_block = read.block == now.block, same_phase = same_block && read.phase == now.phase,
               same_warp = same_phase && read.warp() == now.warp(),
               same_wait = same_warp && read.warp_phase == now.warp_phase;
    if (!same_block) read_in_other_block = read;
    if (!same_phase) read_in_other_warp = {};
    else if (!same_warp) read_in_other_warp = read;
    if (!same_wait) read_in_other_lane = {};
    else if (read.thread != now.thread) read_in_other_lane = read;
  }
  read = now;
}

void Shadow::Page::split(size_t word) {
  if (is_split[word]) return;
  if (bytes.empty()) bytes.resize(page_words);
  bytes[word].fill(words[word]);
  is_split.set(word);
}

void Shadow::begin() {
  constexpr size_t most_pages = size_t{1} << 12;  // of 100 KiB, and four times as much more where words are split
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
    const bool unwritten = !writes && !cell.write.is();
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
