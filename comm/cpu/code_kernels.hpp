// What codecs do with the values of one bucket, in vectors: to codes of a byte each and back, and rotations.
//
// Compiled twice, for AVX2 and for AVX-512, with the same results. Codes are read and written in whole vectors: their
// memory is a multiple of sixty-four, and what lies behind the last code means nothing.
// Not for: scales, messages (bucket_codec.hpp, correlated_codec.hpp).
#pragma once

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <span>

#include "comm/code_source.hpp"
#include "comm/codec.hpp"
#include "comm/correlated_arithmetic.hpp"
#include "comm/normal_levels.hpp"
#include "quant/element_format.hpp"
#include "tensor/random.hpp"
#include "tensor/stream.hpp"

namespace nibble {

struct EqualLevels;  // level_arithmetic.hpp, which is compiled for one instruction set where vectors use it

struct Extremes {
  float smallest, largest;
  uint32_t largest_magnitude_bits;
};

/// Sums over a bucket of a value times the level of its code and, for the scale of least error, of the level's square.
/// Levels are those of one deviation.
struct NormalProducts {
  double with_values, of_levels;
};

/// What decoding does with memory.
enum class Decoded { replaces, adds };

struct CodeKernels {
  /// No finite value's are above; a NaN's are.
  uint32_t (*largest_magnitude_bits)(std::span<const float> x);
  /// Of at least one value.
  Extremes (*extremes)(std::span<const float> x);
  double (*squared_norm)(std::span<const float> x);
  void (*encode_nearest)(const EqualLevels& levels, std::span<const float> x, uint8_t* codes);
  void (*encode_stochastic)(const EqualLevels& levels, std::span<const float> x, const RandomStream& stream,
                            uint32_t part, uint8_t* codes);
  void (*decode_levels)(const EqualLevels& levels, const uint8_t* codes, Decoded decoded, std::span<float> x);
  /// Codes ascend with the levels for normal values of this deviation, which is above zero.
  NormalProducts (*encode_normal)(int bits, float deviation, Codec::Scale scale, std::span<const float> x,
                                  uint8_t* codes);
  void (*decode_normal)(int bits, float scale, const uint8_t* codes, Decoded decoded, std::span<float> x);
  void (*encode_float8)(float scale, Codec::Rounding rounding, std::span<const float> x, const RandomStream& stream,
                        uint32_t part, uint8_t* codes);
  void (*decode_float8)(float scale, const uint8_t* codes, Decoded decoded, std::span<float> x);
  void (*encode_correlated)(const CorrelatedLevels& levels, const Stratum& stratum, std::span<const float> x,
                            const RandomStream& stream, uint8_t* codes);
  /// As pack_bits and unpack_bits.
  void (*pack)(std::span<const uint8_t> codes, int bits, std::span<std::byte> packed);
  bool (*unpack)(std::span<const std::byte> packed, int bits, std::span<uint8_t> codes);
  /// Of the codes' bits in `mask`.
  uint8_t (*largest_code)(std::span<const uint8_t> codes, uint8_t mask);
  /// x = H D values / sqrt(n), with zeros behind the values, n = x.size() a power of two and D's signs from `part` of
  /// the stream. x may begin with the values.
  void (*rotate)(std::span<const float> values, std::span<float> x, const RandomStream& stream, uint32_t part);
  /// The reverse: the first of D H x / sqrt(n). x is scratch then; it may be the values' memory where they are
  /// replaced.
  void (*unrotate)(std::span<float> x, const RandomStream& stream, uint32_t part, Decoded decoded,
                   std::span<float> values);
};

const CodeKernels& code_kernels(Isa isa);

}  // namespace nibble
