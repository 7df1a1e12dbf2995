// Top-k of one bucket that lies in the cache.
//
// The k-th largest of some maxima, each over elements of its own, is a bound that at least k elements reach and few
// others. Those are searched for the exact threshold, bit by bit from the top. The cost hardly depends on the values.
#pragma once

#include <algorithm>
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
    for (int64_t i = 0; i < n; ++i) {
      candidates_[found] = static_cast<uint16_t>(i);
      found += keys_[i] >= bound;
    }
    for (int64_t i = 0; i < found; ++i) candidate_keys_[i] = keys_[candidates_[i]];
    const int64_t groups = (found + simd::lanes - 1) / simd::lanes;
    std::fill(candidate_keys_ + found, candidate_keys_ + groups * simd::lanes, no_key);

    const int32_t threshold = found > k ? highest_threshold(candidate_keys_, groups, k, 0) : bound;
    int64_t ties = found > k ? k - count_at_least(candidate_keys_, groups, threshold + 1) : k;
    for (int64_t i = 0; i < found; ++i) {
      if (found > k && (candidate_keys_[i] < threshold || (candidate_keys_[i] == threshold && ties-- <= 0))) continue;
      keep(int64_t{candidates_[i]});
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
    if (groups * simd::lanes < k) return 0;
    for (int j = 0; j < groups; ++j) store(candidate_keys_ + j * simd::lanes, maxima[j]);
    return highest_threshold(candidate_keys_, groups, k, low_bits_of_bound);
  }

  [[gnu::always_inline]] static i32x larger(i32x a, i32x b) { return a > b ? a : b; }

  [[gnu::always_inline]] static int64_t count_at_least(const int32_t* keys, int64_t groups, int32_t key) {
    i32x count{};
    for (int64_t i = 0; i < groups; ++i) count -= load(keys + i * simd::lanes) >= key;
    count += __builtin_shufflevector(count, count, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    count += __builtin_shufflevector(count, count, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    count += __builtin_shufflevector(count, count, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    return count[0] + count[1];
  }

  /// The largest key, but for its low bits, that at least k of the keys reach; 0 if fewer than k are keys.
  [[gnu::always_inline]] static int32_t highest_threshold(const int32_t* keys, int64_t groups, int64_t k,
                                                          int low_bits) {
    int32_t threshold = 0;
    for (int bit = key_bits - 1; bit >= low_bits; --bit)
      if (count_at_least(keys, groups, threshold | 1 << bit) >= k) threshold |= 1 << bit;
    return threshold;
  }

  alignas(64) int32_t keys_[bucket_elements];
  alignas(64) int32_t candidate_keys_[bucket_elements];
  uint16_t candidates_[bucket_elements + 1];
};

}  // namespace nibble
