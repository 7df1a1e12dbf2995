#include "data/deduplicate.hpp"

#include <algorithm>

#include "tensor/files.hpp"
#include "tensor/random.hpp"

namespace nibble {
namespace {

std::string_view trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(white_space);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(white_space) - begin + 1);
}

}  // namespace

Deduplicator::Deduplicator() {
  // h(x) = (a x + b) >> 32 over 64 bits with random a and b: strongly universal (Dietzfelbinger, 1996).
  for (int i = 0; i < hashes; ++i) {
    const PhiloxBlock words = philox({static_cast<uint32_t>(i), 0, 0, 0}, {0, 0});
    multipliers_[static_cast<size_t>(i)] = uint64_t{words[0]} << 32 | words[1];
    increments_[static_cast<size_t>(i)] = uint64_t{words[2]} << 32 | words[3];
  }
}

bool Deduplicator::signature(std::string_view text, Signature& result) const {
  std::array<uint64_t, words_in_shingle> window{};  // hashes of the last words, a ring
  result.fill(~uint32_t{0});
  size_t words = 0, position = 0;
  while ((position = text.find_first_not_of(white_space, position)) != std::string_view::npos) {
    const size_t end = std::min(text.find_first_of(white_space, position), text.size());
    window[words++ % words_in_shingle] = checksum(bytes_of(text.substr(position, end - position)));
    position = end;
    if (words < words_in_shingle) continue;
    std::array<uint64_t, words_in_shingle> shingle;  // oldest word first
    for (size_t k = 0; k < words_in_shingle; ++k) shingle[k] = window[(words + k) % words_in_shingle];
    const uint64_t element = checksum(std::as_bytes(std::span(shingle))) >> 32;
    for (size_t i = 0; i < hashes; ++i) {
      const auto hash = static_cast<uint32_t>((multipliers_[i] * element + increments_[i]) >> 32);
      result[i] = std::min(result[i], hash);
    }
  }
  return words >= words_in_shingle;
}

double Deduplicator::similarity(const Signature& a, const Signature& b) {
  int equal = 0;
  for (size_t i = 0; i < hashes; ++i) equal += a[i] == b[i];
  return static_cast<double>(equal) / hashes;
}

bool Deduplicator::near_duplicate(const Document& document) {
  // Boilerplate could put every document into one bucket; the comparisons for one document stay bounded.
  constexpr size_t most_in_bucket = 64;
  Signature signature_of_document;
  const bool comparable = document.prompt ? signature(*document.prompt + "\n" + document.text, signature_of_document)
                                          : signature(document.text, signature_of_document);
  if (!comparable) return false;
  std::array<uint64_t, bands> keys;
  for (size_t band = 0; band < bands; ++band) {
    keys[band] = checksum(std::as_bytes(std::span(signature_of_document).subspan(band * rows, rows)));
    const auto bucket = buckets_[band].find(keys[band]);
    if (bucket == buckets_[band].end()) continue;
    for (uint32_t other : bucket->second)
      if (similarity(signature_of_document, signatures_[other]) >= threshold) return true;
  }
  for (size_t band = 0; band < bands; ++band) {
    std::vector<uint32_t>& bucket = buckets_[band][keys[band]];
    if (bucket.size() < most_in_bucket) bucket.push_back(static_cast<uint32_t>(signatures_.size()));
  }
  signatures_.push_back(signature_of_document);
  return false;
}

void Deduplicator::drop_repeated_lines(std::string& text) {
  std::string kept;
  std::vector<uint64_t> own;  // they count as seen only for later documents
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size() - 1) + 1;
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    const std::string_view content = trim(line);
    begin = end;
    if (content.size() >= shortest_line) {
      const uint64_t hash = checksum(bytes_of(content));
      if (lines_.contains(hash)) {
        ++counts_.lines_dropped;
        continue;
      }
      own.push_back(hash);
    }
    kept += line;
  }
  lines_.insert(own.begin(), own.end());
  text = std::move(kept);
}

bool Deduplicator::keep(Document& document) {
  ++counts_.documents_before;
  counts_.bytes_before += document.bytes();
  if (near_duplicate(document)) {
    ++counts_.near_duplicates;
    return false;
  }
  if (!document.prompt) {
    drop_repeated_lines(document.text);
    if (trim(document.text).empty()) {
      ++counts_.emptied;
      return false;
    }
  }
  ++counts_.documents_after;
  counts_.bytes_after += document.bytes();
  return true;
}

}  // namespace nibble
