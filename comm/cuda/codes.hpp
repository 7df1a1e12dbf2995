// Codes of a device's values and back, for codecs whose ranks make codes alone: to the bytes and bits of BucketCodec.
//
// Not for: correlated codes (correlated.hpp), what codes become messages of (quantized_allreduce.hpp).
#pragma once

#include <cstdint>

#include "comm/code_source.hpp"
#include "comm/codec.hpp"
#include "comm/level_arithmetic.hpp"
#include "tensor/random.hpp"
#include "tensor/stream.hpp"

namespace nibble::cuda {

/// A codec and buckets that lie one behind the other, of which only the last may be shorter.
struct CodedRun {
  Codec::Grid grid;
  int bits;                      ///< of a code
  bool stochastic, has_minimum;  ///< rounding; range
  bool unbiased;                 ///< the scale of normal levels
  EqualLevels levels;            ///< without step and minimum
  float steps;                   ///< steps_to_end of them
  NormalLevels normal;           ///< of a normal grid
  int64_t count;                 ///< of the buckets
  int32_t values, codes;         ///< of a bucket
  int32_t last_values, last_codes;
  int32_t scale_bytes;       ///< of a bucket's message
  int64_t bytes;             ///< and with its codes
  RandomStream random;       ///< of the first bucket; the others' follow by tensor
  uint32_t rounding, signs;  ///< parts of the stream (CodeSource)

  /// Of `values` > 0 values; the rank of `source` made the codes, or the first rank of several.
  static CodedRun of(const Codec& codec, const CodeSource& source, int64_t values);
};

/// Messages that are decoded and added in their order, `stride` bytes apart.
struct CodeMessages {
  const uint8_t* first;
  int64_t stride = 0;
  int count = 1;
  uint32_t signs_apart = 0;  ///< parts of the stream from each message's signs to the next one's
};

/// codes = the run's message. `refused` grows by the number of buckets with values that are not encodable; of these
/// nothing is written.
[[gnu::weak]] void encode_codes(Stream& stream, const CodedRun& run, const float* values, uint8_t* codes,
                                unsigned long long* refused);
/// values = the sum of what the messages stand for. `damaged` grows where no encoder wrote them; values then mean
/// nothing.
[[gnu::weak]] void decode_codes(Stream& stream, const CodedRun& run, const CodeMessages& messages, float* values,
                                unsigned long long* damaged);

}  // namespace nibble::cuda
