#include "comm/codec.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "tensor/error.hpp"

namespace nibble {
namespace {

using Grid = Codec::Grid;
using Range = Codec::Range;
using Rounding = Codec::Rounding;
using Rotation = Codec::Rotation;
using Scale = Codec::Scale;

/// QSGD (Alistarh et al., arXiv 1610.02132), with the largest magnitude in place of the norm.
constexpr Codec qsgd(std::string_view name, int bits) { return {name, bits, Grid::sign_and_magnitude}; }
/// As CGX has it (Markov, Ramezanikebrya and Alistarh, arXiv 2111.08617).
constexpr Codec maxmin(std::string_view name, int bits, Rounding rounding) {
  return {name, bits, Grid::uniform, Range::extremes, rounding};
}
constexpr Codec independent(std::string_view name, int bits) { return {name, bits, Grid::uniform}; }
constexpr Codec eden(std::string_view name, int bits, Scale scale) {
  return {name, bits, Grid::normal, Range::norm, Rounding::nearest, Rotation::of_rank, scale};
}
constexpr Codec correlated(std::string_view name, int bits, Rotation rotation) {
  return {name, bits, Grid::uniform, Range::largest_of_ranks, Rounding::correlated, rotation};
}
/// Davies et al., arXiv 2002.09268.
constexpr Codec lattice(std::string_view name, int bits, Rotation rotation) {
  return {name, bits, Grid::uniform, Range::distance, Rounding::dithered, rotation};
}

constexpr Codec rows[] = {
    qsgd("qsgd-2", 2),
    qsgd("qsgd-4", 4),
    qsgd("qsgd-8", 8),
    maxmin("maxmin-2", 2, Rounding::stochastic),
    maxmin("maxmin-4", 4, Rounding::stochastic),
    maxmin("maxmin-8", 8, Rounding::stochastic),
    maxmin("maxmin-nearest-2", 2, Rounding::nearest),
    maxmin("maxmin-nearest-4", 4, Rounding::nearest),
    maxmin("maxmin-nearest-8", 8, Rounding::nearest),
    independent("independent-1", 1),
    independent("independent-2", 2),
    independent("independent-4", 4),
    independent("independent-8", 8),
    eden("drive", 1, Scale::unbiased),  // Vargaftik et al., arXiv 2105.08339: EDEN of one bit
    eden("drive-least-error", 1, Scale::least_error),
    eden("eden-1", 1, Scale::unbiased),
    eden("eden-2", 2, Scale::unbiased),
    eden("eden-3", 3, Scale::unbiased),
    eden("eden-4", 4, Scale::unbiased),
    eden("eden-5", 5, Scale::unbiased),
    eden("eden-6", 6, Scale::unbiased),
    eden("eden-7", 7, Scale::unbiased),
    eden("eden-8", 8, Scale::unbiased),
    correlated("correlated-1", 1, Rotation::none),
    correlated("correlated-2", 2, Rotation::none),
    correlated("correlated-4", 4, Rotation::none),
    correlated("correlated-8", 8, Rotation::none),
    correlated("rotated-correlated-1", 1, Rotation::shared),
    correlated("rotated-correlated-2", 2, Rotation::shared),
    correlated("rotated-correlated-4", 4, Rotation::shared),
    correlated("rotated-correlated-8", 8, Rotation::shared),
    {"fp8", 8, Grid::float8},
    {"fp8-nearest", 8, Grid::float8, Range::largest, Rounding::nearest},
    lattice("lattice-2", 2, Rotation::none),
    lattice("lattice-3", 3, Rotation::none),
    lattice("lattice-4", 4, Rotation::none),
    lattice("lattice-8", 8, Rotation::none),
    lattice("rotated-lattice-4", 4, Rotation::shared),
};

/// Positions in a bucket take 16 bits elsewhere, and the scratch of a bucket stays in a core's cache.
constexpr int64_t largest_bucket = int64_t{1} << 16;

}  // namespace

std::span<const Codec> codecs() { return rows; }

Codec codec_named(std::string_view name, int64_t bucket, const std::string& where) {
  const Codec* row = std::ranges::find(rows, name, &Codec::name);
  if (row == std::end(rows)) {
    std::vector<std::string_view> names;
    for (const Codec& codec : rows) names.push_back(codec.name);
    throw Error({.kind = ErrorKind::configuration,
                 .what = "unknown codec",
                 .where = where,
                 .seen = std::string(name),
                 .allowed = fmt::format("{}", fmt::join(names, ", "))});
  }
  const bool rotates = row->rotation != Rotation::none;
  const bool fits = rotates ? std::has_single_bit(static_cast<uint64_t>(bucket)) : bucket % 8 == 0;
  if (bucket < 8 || bucket > largest_bucket || !fits)
    throw Error(
        {.kind = ErrorKind::configuration,
         .what = fmt::format("codec {} cannot have buckets of this size", name),
         .where = where,
         .seen = fmt::format("{} values", bucket),
         .allowed = fmt::format("{} from 8 to {}", rotates ? "powers of two" : "multiples of 8", largest_bucket)});
  Codec codec = *row;
  codec.bucket = bucket;
  return codec;
}

}  // namespace nibble
