// Quantizers beside what others measured of them on Gaussian values: the reference that `nibble formats` and the
// self-test hold the kernels to.
//
// Not for: the measurement (format_measurement.hpp), which quantizer a recipe uses (recipe.hpp).
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "quant/quantizer.hpp"

namespace nibble {

/// A number as it is printed somewhere: right within half of `resolution`, which 0 makes exact.
struct Quoted {
  double value = 0;
  double resolution = 0;
};

struct QuantizerRow {
  std::string_view name;
  Quantizer quantizer;
  std::optional<Quoted> error{};         ///< sum (x - q)^2 / sum x^2
  std::optional<Quoted> misalignment{};  ///< 1 - <x, q> / <x, x>
  std::optional<Quoted> masked{};        ///< fraction of elements
  std::optional<Quoted> fours{};         ///< of four over six: fraction of blocks with the largest value on 4
  /// Of values whose deviation runs over all phases between two powers of two, not of deviation 1.
  bool octave = false;
  /// The error is step^2 / 12 of the sample's own largest values; `error` was that of another sample.
  bool of_the_sample = false;
  std::string_view note{};
};

/// Elements of the sample behind the quoted numbers: 8192 rows of 2048 values of N(0, 1), blocks along the rows.
inline constexpr int64_t reference_rows = 8192, reference_cols = 2048;

/// All of them: deviation 1 first, then the averages over an octave, then quantizers that nobody measured so.
/// Source: the project's reference on quantization, sections 9.1 and 9.2 (numpy, 16.8M samples), 4 (masks of QuEST's
/// integers, 2:4) and 7 (NVINT4, shifted grid).
std::span<const QuantizerRow> quantizer_table();

}  // namespace nibble
