// Top-k of one bucket that lies in the cache.
//
// The k-th largest of some maxima, each over elements of its own, is a bound that at least k elements reach and few
// others. Those are searched for the exact threshold: few of them each against all, many bit by bit from the top. The
// cost hardly depends on the values.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>

#include "comm/cpu/magnitude_key.hpp"
#include "comm/sparse_stream.hpp"

namespace nibble {

class BucketSelection {
 public:
  /// Calls keep(position) for each of the min(k, n) elements that are kept, in ascending order; n <= 512.
  template <class Keep>
  [[gnu::always_inline]] void select(const float* values, int64_t n, int64_t k, Keep&& keep) {
    if (n <= k) {
      for (int64_t i = 0; i < n; ++i) keep(i);
      return;
    }
    const int32_t bound = lower_bound_of_kept(values, n, k);
    int64_t found = 0;
    for (int64_t first = 0; first < n; first += simd::lanes)
      for_each_reached(load(keys_ + first), bound,
                       [&](int lane) { candidates_[found++] = static_cast<uint16_t>(first + lane); });
    for (int64_t i = 0; i < found; ++i) candidate_keys_[i] = keys_[candidates_[i]];
    const int64_t groups = (found + simd::lanes - 1) / simd::lanes;
    std::fill(candidate_keys_ + found, candidate_keys_ + groups * simd::lanes, no_key);

    const int32_t threshold = found > k ? highest_threshold(candidate_keys_, groups, k, {bound, largest_}, 0) : bound;
    int64_t ties = found > k ? k - count_at_least(candidate_keys_, groups, threshold + 1) : k;
    for (int64_t i = 0, kept = 0; kept < k; ++i) {
      if (found > k && (candidate_keys_[i] < threshold || (candidate_keys_[i] == threshold && ties-- <= 0))) continue;
      keep(int64_t{candidates_[i]});
      ++kept;
    }
  }

 private:
  using i32x = simd::i32x;

  static constexpr int32_t no_key = -1;  ///< below that of every element
  static constexpr int most_maxima = 8;  ///< groups of sixteen
  /// A bound needs no more than exponent and four bits of the mantissa.
  static constexpr int low_bits_of_bound = 19;

  [[gnu::always_inline]] static i32x load(const int32_t* p) {
    i32x v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  [[gnu::always_inline]] static void store(int32_t* p, i32x v) { std::memcpy(p, &v, sizeof v); }

  /// Fills keys_; the result is a key that at least k elements reach.
  [[gnu::always_inline]] int32_t lower_bound_of_kept(const float* values, int64_t n, int64_t k) {
    simd::for_each_group(
        n, [&](int64_t i, int64_t count) { store(keys_ + i, magnitude_keys(simd::load_n(values + i, count))); });
    std::fill(keys_ + n, keys_ + bucket_elements, no_key);
    i32x maxima[most_maxima];
    for (int j = 0; j < most_maxima; ++j) {
      maxima[j] = load(keys_ + j * simd::lanes);
      for (int64_t i = j + most_maxima; i < bucket_elements / simd::lanes; i += most_maxima)
        maxima[j] = larger(maxima[j], load(keys_ + i * simd::lanes));
    }
    // Maxima over fewer elements are more, which k larger ones of them must be; about four times k serve best.
    int groups = most_maxima;
    for (; groups > 1 && groups / 2 * simd::lanes >= 4 * k; groups /= 2)
      for (int j = 0; j < groups / 2; ++j) maxima[j] = larger(maxima[j], maxima[j + groups / 2]);
    i32x largest = maxima[0];
    for (int j = 1; j < groups; ++j) largest = larger(largest, maxima[j]);
    largest_ = across_lanes(
        largest, [](i32x a, i32x b) __attribute__((always_inline)) { return larger(a, b); })[0];
    if (groups * simd::lanes < k) return 0;
    for (int j = 0; j < groups; ++j) store(candidate_keys_ + j * simd::lanes, maxima[j]);
    return highest_threshold(candidate_keys_, groups, k, {0, largest_}, low_bits_of_bound);
  }

  [[gnu::always_inline]] static i32x larger(i32x a, i32x b) { return a > b ? a : b; }

  /// All lanes joined by an operation, in each lane of the result.
  template <class Join>
  [[gnu::always_inline]] static i32x across_lanes(i32x v, Join&& join) {
    v = join(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    v = join(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
    v = join(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    return join(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
  }

  [[gnu::always_inline]] static int64_t count_at_least(const int32_t* keys, int64_t groups, int32_t key) {
    i32x count{};
    for (int64_t i = 0; i < groups; ++i) count -= load(keys + i * simd::lanes) >= key;
    return across_lanes(
        count, [](i32x a, i32x b) __attribute__((always_inline)) { return a + b; })[0];
  }

  struct Between {
    int32_t least, most;
  };

  /// The largest key that at least k of the keys reach, but for its low bits if there are many. Where it lies is known;
  /// the more exactly, the fewer bits are searched for.
  [[gnu::always_inline]] static int32_t highest_threshold(const int32_t* keys, int64_t groups, int64_t k,
                                                          Between between, int low_bits) {
    constexpr int64_t few_groups = 2;
    if (groups <= few_groups) return highest_threshold_of_few(keys, groups, k);
    const int open_bits = std::bit_width(static_cast<uint32_t>(between.least ^ between.most));
    int32_t threshold = between.most >> open_bits << open_bits;
    for (int bit = open_bits - 1; bit >= low_bits; --bit)
      if (count_at_least(keys, groups, threshold | 1 << bit) >= k) threshold |= 1 << bit;
    return threshold;
  }

  /// Each key against all: no comparison waits for another.
  [[gnu::always_inline]] static int32_t highest_threshold_of_few(const int32_t* keys, int64_t groups, int64_t k) {
    i32x threshold{};
    for (int64_t group = 0; group < groups; ++group) {
      const i32x own = load(keys + group * simd::lanes);
      i32x reached_by{};
      for (int64_t i = 0; i < groups * simd::lanes; ++i) reached_by -= i32x{} + keys[i] >= own;
      threshold = larger(threshold, reached_by >= static_cast<int32_t>(k) ? own : i32x{});
    }
    return across_lanes(
        threshold, [](i32x a, i32x b) __attribute__((always_inline)) { return larger(a, b); })[0];
  }

  alignas(64) int32_t keys_[bucket_elements];
  alignas(64) int32_t candidate_keys_[bucket_elements];
  uint16_t candidates_[bucket_elements];
  int32_t largest_;  ///< of keys_
};

}  // namespace nibble
