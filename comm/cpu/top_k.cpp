#include "comm/top_k.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "comm/cpu/select_bucket.hpp"
#include "comm/sparse_wire.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

/// A key is looked at in three digits, the highest first: exponent and four bits of the mantissa suffice to leave few.
constexpr int low_bits[] = {19, 9, 0};
constexpr size_t digits = size_t{1} << 12;

/// What one task works on.
constexpr int64_t chunk_elements = int64_t{1} << 18;

using Histogram = std::array<int64_t, digits>;

/// Which of the keys are kept: all above `key`, and of those equal to it the first `ties`.
struct Threshold {
  int32_t key = 0;
  int64_t ties = 0;
};

/// Narrows a threshold by one digit: `histogram` counts the next digits of those keys that agree with it so far.
void narrow(Threshold& threshold, const Histogram& histogram, int shift) {
  size_t digit = digits - 1;
  for (; histogram[digit] < threshold.ties; --digit) threshold.ties -= histogram[digit];
  threshold.key |= static_cast<int32_t>(digit << shift);
}

Histogram histogram_of_first_digits(Stream& stream, std::span<const float> values) {
  const auto n = static_cast<int64_t>(values.size());
  std::vector<Histogram> of_threads(static_cast<size_t>(stream.threads()));
  parallel_tasks(stream, (n + chunk_elements - 1) / chunk_elements, [&](int64_t chunk, int64_t thread) {
    // Neighbours are often alike, and a count would wait for the one before it: they go to tables of their own.
    constexpr int64_t tables = 4;
    static thread_local std::array<std::array<uint32_t, digits>, tables> counts;
    for (auto& table : counts) table.fill(0);
    const float* const x = values.data() + chunk * chunk_elements;
    const int64_t count = std::min(chunk_elements, n - chunk * chunk_elements);
    for (int64_t i = 0; i < count; ++i)
      ++counts[static_cast<size_t>(i % tables)][static_cast<size_t>(magnitude_key(x[i]) >> low_bits[0])];
    Histogram& all = of_threads[static_cast<size_t>(thread)];
    for (const auto& table : counts)
      for (size_t digit = 0; digit < digits; ++digit) all[digit] += table[digit];
  });
  Histogram total{};
  for (const Histogram& histogram : of_threads)
    for (size_t digit = 0; digit < digits; ++digit) total[digit] += histogram[digit];
  return total;
}

/// The indices of all whose key is at least `key`, in order.
std::vector<uint32_t> indices_from(Stream& stream, std::span<const float> values, int32_t key) {
  const auto n = static_cast<int64_t>(values.size());
  std::vector<std::vector<uint32_t>> of_chunks(static_cast<size_t>((n + chunk_elements - 1) / chunk_elements));
  parallel_tasks(stream, static_cast<int64_t>(of_chunks.size()), [&](int64_t chunk, int64_t) {
    constexpr int64_t block = 4096;
    std::array<uint32_t, block> found;
    std::vector<uint32_t>& indices = of_chunks[static_cast<size_t>(chunk)];
    const int64_t end = std::min((chunk + 1) * chunk_elements, n);
    for (int64_t first = chunk * chunk_elements; first < end; first += block) {
      int64_t count = 0;
      for (int64_t i = first; i < std::min(first + block, end); ++i) {
        found[static_cast<size_t>(count)] = static_cast<uint32_t>(i);
        count += magnitude_key(values[static_cast<size_t>(i)]) >= key;
      }
      indices.insert(indices.end(), found.begin(), found.begin() + count);
    }
  });
  std::vector<uint32_t> all;
  for (const std::vector<uint32_t>& indices : of_chunks) all.insert(all.end(), indices.begin(), indices.end());
  return all;
}

}  // namespace

void check_top_k(int64_t k, int64_t most) {
  if (k >= 1 && k <= most) return;
  throw Error({.kind = ErrorKind::configuration,
               .what = "Top-k cannot keep so many elements",
               .where = "selection",
               .seen = std::to_string(k),
               .allowed = fmt::format("1 to {}", most)});
}

SparseStream top_k_of_buckets(Stream& stream, std::span<const float> values, int k) {
  check_top_k(k, bucket_elements);
  const auto n = static_cast<int64_t>(values.size());
  check_indexable(n);
  std::vector<SparseEntry> entries(static_cast<size_t>(entries_of_buckets(n, k)));
  parallel_for(stream, n, bucket_elements, [&](int64_t begin, int64_t end) {
    BucketSelection selection;
    SparseEntry* to = entries.data() + begin / bucket_elements * k;
    for (int64_t first = begin; first < end; first += bucket_elements) {
      const float* const x = values.data() + first;
      selection.select(x, std::min(bucket_elements, end - first), k, [&](int64_t i) {
        *to++ = {static_cast<uint32_t>(first + i), x[i]};
      });
    }
  });
  return SparseStream(n, std::move(entries));
}

SparseStream top_k(Stream& stream, std::span<const float> values, int64_t k) {
  const auto n = static_cast<int64_t>(values.size());
  check_indexable(n);
  check_top_k(k, int64_t{1} << 32);
  Threshold threshold{.ties = std::min(k, n)};
  if (n == 0) return SparseStream(0);
  narrow(threshold, histogram_of_first_digits(stream, values), low_bits[0]);
  const std::vector<uint32_t> candidates = indices_from(stream, values, threshold.key);
  for (size_t digit = 1; digit < std::size(low_bits); ++digit) {
    Histogram histogram{};
    const int above = low_bits[digit - 1], shift = low_bits[digit];
    for (const uint32_t index : candidates) {
      const int32_t key = magnitude_key(values[index]);
      if (key >> above == threshold.key >> above) ++histogram[static_cast<size_t>((key & ((1 << above) - 1)) >> shift)];
    }
    narrow(threshold, histogram, shift);
  }
  std::vector<SparseEntry> entries;
  entries.reserve(static_cast<size_t>(std::min(k, n)));
  for (const uint32_t index : candidates) {
    const int32_t key = magnitude_key(values[index]);
    if (key > threshold.key || (key == threshold.key && threshold.ties-- > 0))
      entries.push_back({index, values[index]});
  }
  return SparseStream(n, std::move(entries));
}

}  // namespace nibble
