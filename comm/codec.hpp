// How values of a gradient become codes of few bits on the wire, as data: grid, range, rounding, rotation, scale.
//
// A vector is cut into buckets of consecutive values; each has a scale of its own, and only the last may be shorter.
// Codecs differ in nothing but the fields below; codec.cpp has their rows.
// Not for: the computation (bucket_codec.hpp; correlated_codec.hpp, lattice_codec.hpp for codecs that need to know
// something of the other ranks), the order of a sum (quantized_allreduce.hpp, correlated_allreduce.hpp).
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace nibble {

struct Codec {
  enum class Grid {
    sign_and_magnitude,  ///< -s ... s with s = 2^(bits - 1) - 1, zero among them
    uniform,             ///< 2^bits levels from one end of the range to the other
    normal,              ///< levels for a standard normal distribution (normal_levels.hpp)
    float8               ///< E4M3
  };
  enum class Range {
    largest,           ///< of the bucket's magnitudes
    extremes,          ///< the smallest and the largest value
    norm,              ///< the l2 norm: at few bits larger errors than both above
    largest_of_ranks,  ///< the largest magnitude on any rank
    distance           ///< between ranks, which the caller knows; levels repeat beyond it
  };
  enum class Rounding {
    nearest,     ///< biased: only with error feedback, or behind a rotation with the unbiased scale
    stochastic,  ///< independent on each rank
    correlated,  ///< thresholds in a stratum of its own on each rank (Suresh et al., arXiv 2203.04925)
    dithered     ///< on a grid at a random place, which all ranks know
  };
  /// Random signs and a Hadamard transform of each bucket, which is padded to a power of two with zeros.
  enum class Rotation { none, shared /**< the same on all ranks */, of_rank /**< errors of ranks then average out */ };
  /// What multiplies the levels of a normal grid (EDEN: Vargaftik et al., arXiv 2108.08842, sections 3 and 4).
  enum class Scale { of_range, unbiased, least_error };

  std::string_view name;
  int bits = 8;  ///< of a code, 1 ... 8
  Grid grid = Grid::uniform;
  Range range = Range::largest;
  Rounding rounding = Rounding::stochastic;
  Rotation rotation = Rotation::none;
  Scale scale = Scale::of_range;
  int64_t bucket = 1024;  ///< values; a multiple of 8, and a power of two under a rotation

  /// Codes of a bucket of `values`.
  int64_t codes_of(int64_t values) const {
    return rotation == Rotation::none || values == 0
               ? values
               : static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(values)));
  }
  int64_t buckets_of(int64_t values) const { return (values + bucket - 1) / bucket; }
  /// Of a vector with its own padding: buckets lie one behind the other.
  int64_t padded(int64_t values) const { return values / bucket * bucket + codes_of(values % bucket); }
  /// In a bucket's message: a scale; a step and a minimum; a distance and a checksum; nothing where ranks share scales.
  size_t scale_bytes() const {
    if (range == Range::largest_of_ranks) return 0;
    return range == Range::extremes || range == Range::distance ? 8 : 4;
  }
  size_t bytes_of_bucket(int64_t values) const {
    return scale_bytes() + static_cast<size_t>((codes_of(values) * bits + 7) / 8);
  }
  /// Of a vector's message: bucket after bucket, each its scales and then its codes.
  size_t bytes_of(int64_t values) const {
    const int64_t rest = values % bucket;
    return static_cast<size_t>(values / bucket) * bytes_of_bucket(bucket) + (rest == 0 ? 0 : bytes_of_bucket(rest));
  }
  bool operator==(const Codec&) const = default;
};

/// All rows.
std::span<const Codec> codecs();

/// The row of that name with buckets of `bucket` values. Throws Error{configuration} for an unknown name and for a
/// bucket that the codec cannot have; `where` says which setting asked.
Codec codec_named(std::string_view name, int64_t bucket, const std::string& where);

}  // namespace nibble
