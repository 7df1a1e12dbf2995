// Where the random numbers of a bucket's codes come from: a pure function of seed, step, bucket, rank and use.
//
// The parts of the stream that correlated quantizers take are a specification that other devices share: counter
// (index / 4, step, bucket, 0x43510001) for what all ranks share and 0x43510100 + rank for a rank's own.
#pragma once

#include <cstdint>

#include "tensor/random.hpp"

namespace nibble {

/// 'C', for codes: its parts say what for and for whom.
inline constexpr Purpose gradient_codes{0x43};

/// Whose codes, and of what.
struct CodeSource {
  /// A sum that its owner encodes again must not meet the random numbers of the owner's own contribution.
  enum class Of { contribution, sum };

  uint64_t seed = 0;
  uint32_t step = 0;
  uint32_t first_bucket = 0;  ///< the number of a vector's first bucket, among all that are exchanged in the step
  int rank = 0;
  Of of = Of::contribution;

  CodeSource of_rank(int other) const { return {seed, step, first_bucket, other, of}; }
  CodeSource from_bucket(int64_t bucket) const {
    return {seed, step, first_bucket + static_cast<uint32_t>(bucket), rank, of};
  }
  CodeSource of_sum() const { return {seed, step, first_bucket, rank, Of::sum}; }
  RandomStream stream(int64_t bucket) const {
    return {seed, gradient_codes, step, first_bucket + static_cast<uint32_t>(bucket)};
  }
  /// Parts of a stream, for RandomStream::block((part << 32) + index) and RandomLanes.
  static constexpr uint32_t correlated_offsets = 0x510001, first_levels = 0x510002, rank_order = 0x510003;
  uint32_t correlated_thresholds() const { return 0x510100 + rank_number(); }
  uint32_t rounding() const { return of_whom(0x520100) + rank_number(); }
  uint32_t own_signs() const { return of_whom(0x530100) + rank_number(); }
  uint32_t shared_signs() const { return of_whom(0x530001); }
  uint32_t selection() const { return 0x550100 + rank_number(); }
  static constexpr uint32_t dither = 0x540001, permutation = 0x550001, coin = 0x560001, error_sample = 0x570001;

 private:
  uint32_t rank_number() const { return static_cast<uint32_t>(rank); }
  uint32_t of_whom(uint32_t part) const { return of == Of::sum ? part + 0x080000 : part; }
};

/// More would run into the next part.
inline constexpr int most_ranks_of_codes = 0xff00;

/// Word `index` of a part.
inline uint32_t word_of_part(const RandomStream& stream, uint32_t part, uint32_t index) {
  return stream.block((uint64_t{part} << 32) + index / 4)[index % 4];
}

}  // namespace nibble
