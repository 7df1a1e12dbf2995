// The arithmetic of correlated quantizers, for one value: what devices compute, to the bits of the host's vectors
// (cpu/correlated_kernels.hpp).
//
// Not for: messages and sums (correlated_allreduce.hpp, count_sum.cpp).
#pragma once

#include <cmath>
#include <cstdint>

#include "tensor/host_device.hpp"

namespace nibble {

/// Levels of a correlated quantizer: first + code / per_step of the way from -range to range.
struct CorrelatedLevels {
  float range = 0, inverse = 0;  ///< 1 / (2 range)
  double first = 0, per_step = 1, last = 1;
};

/// A rank's place among the strata.
struct Stratum {
  uint32_t ranks, place;
  uint32_t thresholds;  ///< part of the stream
};

/// Where the levels of a bucket lie: first + step i of the range's length above its lower end.
struct LevelGrid {
  double first, step;

  /// `word`: random, the same on all ranks. Two levels are the ends of the range; more are a little further apart than
  /// it needs, at a random place: of k levels the first is in [-1/k, 0).
  NIBBLE_HOST_DEVICE static constexpr LevelGrid of(int bits, uint32_t word) {
    if (bits == 1) return {0, 1};
    const double k = 1 << bits;
    return {-(word + 1.0) * 0x1p-32 / k, (k + 1) / (k * (k - 1))};
  }

  NIBBLE_HOST_DEVICE constexpr CorrelatedLevels within(float range, int bits) const {
    return {range, range > 0x1p-100f ? 0.5f / range : 0.0f, first, 1 / step, static_cast<double>((1 << bits) - 1)};
  }
};

/// What a sum of the ranks' codes stands for: the sum over ranks of 2 range (first + step code) - range.
struct CountMeaning {
  double per_count, lowest;

  NIBBLE_HOST_DEVICE static constexpr CountMeaning of(const LevelGrid& grid, float range, int ranks) {
    return {2 * grid.step * range, (2 * grid.first - 1) * ranks * range};
  }
  NIBBLE_HOST_DEVICE constexpr float value(uint32_t count) const {
    return static_cast<float>(lowest + per_count * count);
  }
};

/// The stratum that a shared random word gives a rank: floor(word ranks / 2^32), moved by its place.
NIBBLE_HOST_DEVICE constexpr uint32_t stratum_of_word(uint32_t word, const Stratum& of) {
  const uint32_t turn = static_cast<uint32_t>(uint64_t{word} * of.ranks >> 32) + of.place;
  return turn < of.ranks ? turn : turn - of.ranks;
}

/// The code of a value within the range: `offset` is the element's word of all ranks, `threshold` this rank's. The
/// level below, or the one above where the threshold lies in the value's fraction; one bit is compared without f64,
/// with the rounding error of its product.
NIBBLE_HOST_DEVICE inline uint32_t correlated_code(const CorrelatedLevels& levels, const Stratum& of, float x,
                                                   uint32_t offset, uint32_t threshold) {
  const uint32_t stratum = stratum_of_word(offset, of), low = threshold >> 8;
  const float along = (x + levels.range) * levels.inverse;
  if (levels.last == 1) {
    const float above_zero = along > 0 ? along : 0.0f, inside = above_zero < 1 ? above_zero : 1.0f;
    const auto ranks = static_cast<float>(of.ranks);
    const float p = inside * ranks, error = fmaf(inside, ranks, -p);
    const float left = fmaf(static_cast<float>(low), -0x1p-24f, p - static_cast<float>(stratum));
    return left > -error ? 1 : 0;
  }
  const double position = (static_cast<double>(along) - levels.first) * levels.per_step;
  const double inside = position > 0 ? (position < levels.last ? position : levels.last) : 0.0;
  const auto below = static_cast<uint32_t>(inside);
  const double t = static_cast<double>(uint64_t{stratum} << 24 | low);
  return t < (inside - static_cast<double>(below)) * (static_cast<double>(of.ranks) * 0x1p24) ? below + 1 : below;
}

}  // namespace nibble
