#include "comm/sparse_stream.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>

#include "tensor/error.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

constexpr int64_t most_elements = int64_t{1} << 32;

bool ascends(int64_t length, std::span<const SparseEntry> entries) {
  if (entries.empty()) return true;
  bool all = entries.back().index < length;
  for (size_t i = 1; i < entries.size(); ++i) all = all & (entries[i - 1].index < entries[i].index);
  return all;
}

/// The first entry that is not as it must be.
size_t first_wrong(int64_t length, std::span<const SparseEntry> entries) {
  size_t i = 0;
  while (entries[i].index < length && (i == 0 || entries[i - 1].index < entries[i].index)) ++i;
  return i;
}

std::vector<SparseEntry> merge(std::span<const SparseEntry> lower, std::span<const SparseEntry> higher) {
  std::vector<SparseEntry> merged(lower.size() + higher.size());
  auto a = lower.begin(), b = higher.begin();
  auto to = merged.begin();
  while (a != lower.end() && b != higher.end()) {
    if (a->index == b->index) *to++ = {a->index, a++->value + b++->value};
    else *to++ = a->index < b->index ? *a++ : *b++;
  }
  to = std::copy(a, lower.end(), to);
  to = std::copy(b, higher.end(), to);
  merged.resize(static_cast<size_t>(to - merged.begin()));
  return merged;
}

/// Zeros of a vector that no cache holds do not pass through any: that takes half the time.
void write_zeros(std::span<float> all) {
  constexpr size_t cached_bytes = size_t{1} << 20, line = 64;
  float *at = all.data(), *const end = at + all.size();
  if (all.size_bytes() > cached_bytes) {
    for (; reinterpret_cast<uintptr_t>(at) % line != 0; ++at) *at = 0;
    for (; end - at >= simd::lanes; at += simd::lanes) simd::stream(at, simd::f32x{});
    simd::finish_streaming();
  }
  std::fill(at, end, 0.0f);
}

}  // namespace

SparseStream::SparseStream(int64_t length, std::vector<SparseEntry> entries)
    : length_(length), entries_(std::move(entries)) {
  assert(length <= most_elements && ascends(length_, entries_));
}

SparseStream SparseStream::checked(int64_t length, std::vector<SparseEntry> entries, const std::string& where) {
  if (length < 0 || length > most_elements)
    throw Error({.kind = ErrorKind::communication,
                 .what = "a sparse vector has a length that its indices cannot reach",
                 .where = where,
                 .seen = std::to_string(length),
                 .allowed = "0 to 2^32"});
  if (!ascends(length, entries)) {
    const size_t wrong = first_wrong(length, entries);
    throw Error({.kind = ErrorKind::communication,
                 .what = "the indices of a sparse vector do not ascend within it",
                 .where = where,
                 .seen = fmt::format("entry {} has index {}{}", wrong, entries[wrong].index,
                                     wrong > 0 ? fmt::format(" behind {}", entries[wrong - 1].index) : ""),
                 .allowed = fmt::format("ascending indices below {}", length)});
  }
  return SparseStream(length, std::move(entries));
}

void SparseStream::make_dense() {
  if (dense_) return;
  std::vector<float> values(static_cast<size_t>(length_));
  for (const SparseEntry& entry : entries_) values[entry.index] = entry.value;
  *this = SparseStream(std::move(values));
}

void SparseStream::write(std::span<float> all) const {
  assert(static_cast<int64_t>(all.size()) == length_);
  if (dense_) {
    std::copy(values_.begin(), values_.end(), all.begin());
  } else {
    write_zeros(all);
    for (const SparseEntry& entry : entries_) all[entry.index] = entry.value;
  }
}

void SparseStream::add_to(std::span<float> all) const {
  assert(static_cast<int64_t>(all.size()) == length_);
  if (dense_)
    for (size_t i = 0; i < all.size(); ++i) all[i] += values_[i];
  else
    for (const SparseEntry& entry : entries_) all[entry.index] += entry.value;
}

void check_indexable(int64_t length) {
  if (length <= most_elements) return;
  throw Error({.kind = ErrorKind::configuration,
               .what = "a vector is too long to be exchanged in sparse form",
               .where = "sparse exchange",
               .seen = fmt::format("{} elements", length),
               .allowed = "2^32 elements",
               .next = "exchange it in several buckets"});
}

SparseStream sum(const SparseStream& lower, const SparseStream& higher) {
  assert(lower.length() == higher.length());
  const bool sparse = !lower.dense() && !higher.dense();
  if (sparse && lower.count() + higher.count() < dense_switch(lower.length()))
    return SparseStream(lower.length(), merge(lower.entries(), higher.entries()));
  SparseStream total = lower;
  total.make_dense();
  higher.add_to(total.values());
  return total;
}

SparseStream part_of(const SparseStream& stream, int64_t first, int64_t count) {
  assert(first >= 0 && count >= 0 && first + count <= stream.length());
  if (stream.dense()) {
    const auto values = stream.values().subspan(static_cast<size_t>(first), static_cast<size_t>(count));
    return SparseStream(std::vector<float>(values.begin(), values.end()));
  }
  const auto at = [&](int64_t index) {
    return std::ranges::lower_bound(stream.entries(), index, {}, [](const SparseEntry& e) { return int64_t{e.index}; });
  };
  std::vector<SparseEntry> entries(at(first), at(first + count));
  for (SparseEntry& entry : entries) entry.index -= static_cast<uint32_t>(first);
  const bool dense = count > 0 && static_cast<int64_t>(entries.size()) >= dense_switch(count);
  SparseStream part(count, std::move(entries));
  if (dense) part.make_dense();
  return part;
}

SparseStream concatenate(std::span<const SparseStream> parts) {
  int64_t length = 0, count = 0;
  bool dense = false;
  for (const SparseStream& part : parts) {
    length += part.length();
    count += part.count();
    dense = dense || part.dense();
  }
  assert(length <= most_elements);
  if (dense || (length > 0 && count >= dense_switch(length))) {
    std::vector<float> values(static_cast<size_t>(length));
    std::span<float> rest = values;
    for (const SparseStream& part : parts) {
      part.write(rest.first(static_cast<size_t>(part.length())));
      rest = rest.subspan(static_cast<size_t>(part.length()));
    }
    return SparseStream(std::move(values));
  }
  std::vector<SparseEntry> entries(static_cast<size_t>(count));
  auto to = entries.begin();
  int64_t first = 0;
  for (const SparseStream& part : parts) {
    to = std::ranges::transform(part.entries(), to, [first](const SparseEntry& entry) {
           return SparseEntry{static_cast<uint32_t>(first + entry.index), entry.value};
         }).out;
    first += part.length();
  }
  return SparseStream(length, std::move(entries));
}

}  // namespace nibble
