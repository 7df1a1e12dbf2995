// What codecs do with the values of one bucket, in vectors: to codes of a byte each and back, and rotations.
//
// Compiled twice, for AVX2 and for AVX-512, with the same results. Codes are read and written in whole vectors: their
// memory is a multiple of sixteen, and what lies behind the last code means nothing.
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
#include "comm/normal_levels.hpp"
#include "quant/element_format.hpp"
#include "tensor/random.hpp"
#include "tensor/stream.hpp"

namespace nibble {

/// Levels at equal distances: value = (code - offset) step + minimum.
struct EqualLevels {
  float step = 0, minimum = 0, offset = 0;
  int last = 0;  ///< code
};

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

struct CodeKernels {
  void (*encode_nearest)(const EqualLevels& levels, std::span<const float> x, uint8_t* codes);
  void (*encode_stochastic)(const EqualLevels& levels, std::span<const float> x, const RandomStream& stream,
                            uint32_t part, uint8_t* codes);
  void (*decode_levels)(const EqualLevels& levels, const uint8_t* codes, std::span<float> x);
  /// Codes ascend with the levels. `scale`: what a value is multiplied with to become standard normal.
  void (*encode_normal)(int bits, float scale, std::span<const float> x, uint8_t* codes);
  void (*encode_float8)(float scale, Codec::Rounding rounding, std::span<const float> x, const RandomStream& stream,
                        uint32_t part, uint8_t* codes);
  void (*decode_float8)(float scale, const uint8_t* codes, std::span<float> x);
  void (*encode_correlated)(const CorrelatedLevels& levels, const Stratum& stratum, std::span<const float> x,
                            const RandomStream& stream, uint8_t* codes);
  /// x becomes H D x / sqrt(n), with n = x.size() a power of two and D's signs from `part` of the stream.
  void (*rotate)(std::span<float> x, const RandomStream& stream, uint32_t part);
  /// The reverse: D H x / sqrt(n).
  void (*unrotate)(std::span<float> x, const RandomStream& stream, uint32_t part);
};

const CodeKernels& code_kernels(Isa isa);

}  // namespace nibble
