// Codes of a vector's buckets, and back: for every codec whose codes a rank makes alone.
//
// Codes are a pure function of the values and their CodeSource, with every instruction set.
// Not for: codecs whose ranks share a scale (correlated_codec.hpp) or know their distance (lattice_codec.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "comm/code_source.hpp"
#include "comm/codec.hpp"
#include "comm/cpu/code_kernels.hpp"
#include "comm/level_arithmetic.hpp"

namespace nibble {

/// Whether all values have codes (encodable_magnitude).
bool encodable(std::span<const float> values);

class BucketCodec {
 public:
  /// Throws Error{configuration} for codecs of correlated_codec.hpp and lattice_codec.hpp.
  explicit BucketCodec(const Codec& codec, Isa isa = Isa::avx2);

  const Codec& codec() const { return codec_; }

  /// `message` has codec().bytes_of(values.size()). The rank of `source` is this one.
  /// Throws Error{numerics} naming the first value that is not encodable; nothing of its bucket is written then.
  void encode(std::span<const float> values, const CodeSource& source, std::span<std::byte> message);
  /// The same without an exception: false if not all values are encodable; the message is then incomplete.
  [[nodiscard]] bool try_encode(std::span<const float> values, const CodeSource& source, std::span<std::byte> message);
  /// encodable(values), with this codec's instruction set.
  bool can_encode(std::span<const float> values) const;

  /// values = what the message stands for, or are increased by it. The rank of `source` is the message's.
  /// Throws Error{communication} for a message that no encoder wrote: another size, a scale that is not finite or is
  /// negative, a code that stands for nothing, bits behind the last code. Values of earlier buckets are then written.
  void decode(std::span<const std::byte> message, const CodeSource& source, std::span<float> values);
  void decode_and_add(std::span<const std::byte> message, const CodeSource& source, std::span<float> values);

 private:
  /// False: nothing is written.
  bool encode_bucket(std::span<const float> values, const CodeSource& source, std::span<std::byte> message);
  void decode_buckets(std::span<const std::byte> message, const CodeSource& source, Decoded decoded,
                      std::span<float> values);
  /// The values that get codes, rotated or as they are.
  std::span<const float> rotated(std::span<const float> values, const CodeSource& source);

  Codec codec_;
  const CodeKernels& kernels_;
  std::vector<float> values_;   ///< of a rotated bucket
  std::vector<uint8_t> codes_;  ///< of a bucket, a byte each
};

}  // namespace nibble
