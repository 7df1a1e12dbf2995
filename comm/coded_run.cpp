#include "comm/cuda/codes.hpp"

namespace nibble::cuda {

CodedRun CodedRun::of(const Codec& codec, const CodeSource& source, int64_t values) {
  const int64_t count = codec.buckets_of(values), last = values - (count - 1) * codec.bucket;
  const EqualLevels levels = equal_levels(codec);
  const bool own = codec.rotation == Codec::Rotation::of_rank;
  return {.grid = codec.grid,
          .bits = codec.bits,
          .stochastic = codec.rounding == Codec::Rounding::stochastic,
          .has_minimum = codec.range == Codec::Range::extremes,
          .unbiased = codec.scale == Codec::Scale::unbiased,
          .levels = levels,
          .steps = steps_to_end(codec, levels),
          .normal = NormalLevels::of(codec.bits),
          .count = count,
          .values = static_cast<int32_t>(codec.bucket),
          .codes = static_cast<int32_t>(codec.codes_of(codec.bucket)),
          .last_values = static_cast<int32_t>(last),
          .last_codes = static_cast<int32_t>(codec.codes_of(last)),
          .scale_bytes = static_cast<int32_t>(codec.scale_bytes()),
          .bytes = static_cast<int64_t>(codec.bytes_of_bucket(codec.bucket)),
          .random = source.stream(0),
          .rounding = source.rounding(),
          .signs = own ? source.own_signs() : source.shared_signs()};
}

}  // namespace nibble::cuda
