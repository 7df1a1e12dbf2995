// Correlated codes of a device's values as integers that ranks add: gradient to counts, and their sum to the mean's
// place, without the host.
//
// Not for: the sums between (DeviceCommunicator::all_reduce), the host's codes (correlated_codec.hpp).
#pragma once

#include <cstdint>

#include "comm/correlated_arithmetic.hpp"
#include "tensor/random.hpp"
#include "tensor/stream.hpp"

namespace nibble::cuda {

/// A codec's bucket: where its codes begin, how many there are, and of how many values.
struct CodedBucket {
  int64_t begin;
  int32_t codes, values;
};

/// Of one sum; memory is the device's.
struct CountTask {
  const CodedBucket* buckets;
  int64_t count;                          ///< of the buckets
  int largest_bucket;                     ///< codes
  int bits;                               ///< of a code
  bool rotates;                           ///< codes of a bucket are as many as a power of two then
  Stratum stratum;                        ///< of this rank
  RandomStream random;                    ///< of the first bucket; the others' follow by tensor
  uint32_t signs, offsets, first_levels;  ///< parts of the stream (CodeSource)
  float* values;                          ///< all buckets' codes; each begins with the bucket's values
  float* ranges;                          ///< by bucket
  uint32_t* infinite;                     ///< whether some range is not finite
  void* counts;                           ///< u8, or i32 where `wide`, as many as codes
  bool wide;
};

/// Values are rotated in place; ranges become the largest magnitudes, infinity where they are not encodable.
[[gnu::weak]] void prepare_counts(Stream& stream, const CountTask& task);
/// Counts become this rank's codes, under the ranges of all ranks; and `infinite` what it says.
[[gnu::weak]] void encode_counts(Stream& stream, const CountTask& task);
/// Values become what the sums of all ranks' codes stand for, or NaNs where some range is not finite.
[[gnu::weak]] void decode_counts(Stream& stream, const CountTask& task);

}  // namespace nibble::cuda
