#include "comm/top_k.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "comm/cpu/select_bucket.hpp"
#include "comm/sparse_wire.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

/// A key is looked at in three digits, the highest first: exponent and four bits of the mantissa leave few.
constexpr int low_bits[] = {19, 9, 0};
constexpr size_t digits = size_t{1} << 12;

/// What one task works on: a multiple of all groups' elements.
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
  for (; digit > 0 && histogram[digit] < threshold.ties; --digit) threshold.ties -= histogram[digit];
  threshold.key |= static_cast<int32_t>(digit << shift);
}

int64_t chunks_of(int64_t n) { return (n + chunk_elements - 1) / chunk_elements; }

/// First digits of the largest keys of `vectors` times sixteen elements, sixteen of each.
Histogram histogram_of_maxima(Stream& stream, std::span<const float> values, int64_t vectors) {
  const auto n = static_cast<int64_t>(values.size());
  std::vector<Histogram> of_threads(static_cast<size_t>(stream.threads()));
  parallel_tasks(stream, chunks_of(n), [&](int64_t chunk, int64_t thread) {
    Histogram& histogram = of_threads[static_cast<size_t>(thread)];
    const float* const x = values.data() + chunk * chunk_elements;
    const int64_t count = std::min(chunk_elements, n - chunk * chunk_elements);
    simd::for_each_group(count, [&](int64_t i, int64_t length) {
      if (i / simd::lanes % vectors != 0) return;
      simd::i32x maxima = magnitude_keys(simd::load_n(x + i, length));
      for (int64_t next = i + simd::lanes; next + simd::lanes <= std::min(count, i + vectors * simd::lanes);
           next += simd::lanes) {
        const simd::i32x keys = magnitude_keys(simd::load(x + next));
        maxima = keys > maxima ? keys : maxima;
      }
      int32_t keys[simd::lanes];
      std::memcpy(keys, &maxima, sizeof keys);
      for (const int32_t key : keys) ++histogram[static_cast<size_t>(key >> low_bits[0])];
    });
  });
  Histogram total{};
  for (const Histogram& histogram : of_threads)
    for (size_t digit = 0; digit < digits; ++digit) total[digit] += histogram[digit];
  return total;
}

/// A key that at least k elements reach and not many more: the k-th largest of maxima over groups of elements, about
/// four times as many as k.
int32_t lower_bound_of_kept(Stream& stream, std::span<const float> values, int64_t k) {
  constexpr int64_t most_vectors = 64;
  const auto n = static_cast<int64_t>(values.size());
  int64_t vectors = 1;
  while (vectors < most_vectors && n / (2 * vectors) >= 4 * k) vectors *= 2;
  Threshold threshold{.ties = k};
  narrow(threshold, histogram_of_maxima(stream, values, vectors), low_bits[0]);
  return threshold.key;
}

/// The indices of all whose key is at least `bound`, in order.
std::vector<uint32_t> indices_from(Stream& stream, std::span<const float> values, int32_t bound) {
  const auto n = static_cast<int64_t>(values.size());
  std::vector<std::vector<uint32_t>> of_chunks(static_cast<size_t>(chunks_of(n)));
  parallel_tasks(stream, chunks_of(n), [&](int64_t chunk, int64_t) {
    std::vector<uint32_t>& indices = of_chunks[static_cast<size_t>(chunk)];
    const int64_t first = chunk * chunk_elements;
    simd::for_each_group(std::min(chunk_elements, n - first), [&](int64_t i, int64_t count) {
      const simd::i32x keys = magnitude_keys(simd::load_n(values.data() + first + i, count));
      for_each_reached(keys, bound, [&](int lane) {
        if (lane < count) indices.push_back(static_cast<uint32_t>(first + i + lane));
      });
    });
  });
  std::vector<uint32_t> all;
  for (const std::vector<uint32_t>& indices : of_chunks) all.insert(all.end(), indices.begin(), indices.end());
  return all;
}

/// Of the candidates, which hold the k largest.
Threshold exact_threshold(std::span<const float> values, std::span<const uint32_t> candidates, int64_t k) {
  Threshold threshold{.ties = k};
  int above = key_bits;
  for (const int shift : low_bits) {
    Histogram histogram{};
    for (const uint32_t index : candidates) {
      const int32_t key = magnitude_key(values[index]), lower_digits = key & static_cast<int32_t>((1u << above) - 1);
      if (key - lower_digits == threshold.key) ++histogram[static_cast<size_t>(lower_digits >> shift)];
    }
    narrow(threshold, histogram, shift);
    above = shift;
  }
  return threshold;
}

constexpr int64_t most_kept = int64_t{1} << 32;

}  // namespace

int64_t Selection::entries(int64_t length) const {
  return of == Of::all ? std::min(k, length) : entries_of_buckets(length, k);
}

void check_selection(const Selection& selection) {
  check_top_k(selection.k, selection.of == Selection::Of::all ? most_kept : bucket_elements);
}

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
  check_top_k(k, most_kept);
  k = std::min(k, n);
  if (n == 0) return SparseStream(0);
  const std::vector<uint32_t> candidates = indices_from(stream, values, lower_bound_of_kept(stream, values, k));
  Threshold threshold = exact_threshold(values, candidates, k);
  std::vector<SparseEntry> entries;
  entries.reserve(static_cast<size_t>(k));
  for (const uint32_t index : candidates) {
    const int32_t key = magnitude_key(values[index]);
    if (key > threshold.key || (key == threshold.key && threshold.ties-- > 0))
      entries.push_back({index, values[index]});
  }
  return SparseStream(n, std::move(entries));
}

}  // namespace nibble
