// Codes whose error depends on how far ranks are apart, not on how large their values are: each value is a point of a
// cubic lattice, of which only the colour, its number modulo 2^bits, travels; the receiver knows the rest from its own
// vector (Davies, Gurunathan, Moshrefi, Ashkboos and Alistarh, "New bounds for distributed mean estimation and variance
// reduction", ICLR 2021, arXiv 2002.09268).
//
// For parameters, which are large and close together; gradients of ranks are as far apart as they are large.
// Not for: how the distance is kept (by whoever owns the vectors); sums over more than two ranks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "comm/code_source.hpp"
#include "comm/codec.hpp"
#include "comm/cpu/code_kernels.hpp"

namespace nibble {

/// How far apart lattice points are for vectors within `distance` of each other, so that of the points of a colour the
/// nearest to the receiver's value is the sender's.
double lattice_side(float distance, int bits);

class LatticeCodec {
 public:
  /// Throws Error{configuration} for a codec that is no lattice.
  explicit LatticeCodec(const Codec& codec, Isa isa = Isa::avx2);

  const Codec& codec() const { return codec_; }

  /// `distance`: at least the largest difference of a (rotated) value between any two ranks; finite, above zero.
  /// `message` has codec().bytes_of(values.size()). Throws Error{numerics} for values that are not encodable() or so
  /// large against the distance (2^30 times) that lattice points have no numbers.
  void encode(std::span<const float> values, float distance, const CodeSource& source, std::span<std::byte> message);

  /// The largest difference of a (rotated) value between two vectors of equal size.
  float difference(std::span<const float> a, std::span<const float> b, const CodeSource& source);

  enum class Found { near, too_far /**< some bucket's checksum differs: ranks are further apart than the distance */ };

  /// values = what the sender's stand for, found from `own`, which may be the same memory. The rank of `source` is the
  /// sender's. With `too_far` the values of such buckets are those of `own`; ask for the vector
  /// itself, or for a message with twice the distance.
  /// Throws Error{communication} for a damaged message.
  [[nodiscard]] Found decode(std::span<const std::byte> message, std::span<const float> own, const CodeSource& source,
                             std::span<float> values);

 private:
  std::span<float> prepared(std::span<const float> values, const RandomStream& stream, const CodeSource& source);

  Codec codec_;
  const CodeKernels& kernels_;
  std::vector<float> values_;    ///< of a bucket, rotated
  std::vector<int32_t> points_;  ///< of a bucket
  std::vector<uint8_t> colours_;
};

}  // namespace nibble
