// Correlated quantizers: ranks share the range of each bucket and draw their rounding thresholds from different strata,
// so that errors cancel in the sum (Suresh, Sun, Ro and Yu, "Correlated quantization for distributed mean estimation
// and optimization", ICML 2022, arXiv 2203.04925).
//
// What is summed is integers, the ranks' codes, so sums depend neither on their order nor on who adds. Never worse than
// independent rounding on the same levels; the nearer the ranks' values, the better.
// Not for: the messages between ranks (correlated_allreduce.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "comm/code_source.hpp"
#include "comm/codec.hpp"
#include "comm/cpu/code_kernels.hpp"

namespace nibble {

/// A random order of the ranks, the same on all: which stratum a rank gets beside the shared offset.
std::vector<int> order_of_ranks(const CodeSource& source, int ranks);

/// Vectors here are prepared ones: bucket after bucket, rotated and padded as the codec wants it.
class CorrelatedCodec {
 public:
  /// Throws Error{configuration} for a codec that is not correlated, and for so many ranks that the sum of their codes
  /// does not fit 16 bits.
  CorrelatedCodec(const Codec& codec, int ranks, Isa isa = Isa::avx2);

  const Codec& codec() const { return codec_; }
  int ranks() const { return ranks_; }
  /// Of a sum of the codes of all ranks.
  int count_bits() const;

  /// `prepared` has codec().padded(values.size()) elements.
  void prepare(std::span<const float> values, const CodeSource& source, std::span<float> prepared) const;
  /// The largest magnitude of each bucket; infinity where values are not encodable(). All ranks' largest is the range.
  void ranges(std::span<const float> prepared, std::span<float> of_buckets) const;

  /// Codes of this rank, packed. `place`: its element of order_of_ranks. Every value lies within its bucket's range.
  void encode(std::span<const float> prepared, std::span<const float> ranges, const CodeSource& source, int place,
              std::span<std::byte> codes);

  /// counts += a rank's codes. The rank of `source` is theirs, for the message.
  /// Throws Error{communication} for another size and for bits behind the last code.
  void count(std::span<const std::byte> codes, const CodeSource& source, std::span<uint16_t> counts);

  /// sum = the sum over ranks that the counts stand for; sum.size() elements, not prepared any more.
  /// Throws Error{communication} for counts that ranks cannot reach; values up to those are then written.
  void decode(std::span<const uint16_t> counts, std::span<const float> ranges, const CodeSource& source,
              std::span<float> sum);

 private:
  LevelGrid levels(const RandomStream& stream) const {
    return LevelGrid::of(codec_.bits, word_of_part(stream, CodeSource::first_levels, 0));
  }

  Codec codec_;
  const CodeKernels& kernels_;
  int ranks_;
  std::vector<uint8_t> codes_;  ///< of a bucket, a byte each
  std::vector<float> values_;   ///< of a rotated bucket
};

}  // namespace nibble
