// The rows of quantizer_table() measured: error, misalignment and fractions on normal values, judged beside what the
// table quotes.
//
// Not for: text (trainer/formats_output.hpp), the kernels' inputs and outputs one by one (self_test.hpp).
#pragma once

#include <cmath>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "quant/format_table.hpp"
#include "tensor/stream.hpp"

namespace nibble {

/// A ratio of sums over a sample, and how far such ratios spread.
struct Estimate {
  double value = 0;
  double standard_error = 0;  ///< from the spread between parts of the sample
};

/// A measured number beside the one that it should be; without the latter it is not judged.
struct Judged {
  Estimate measured;
  std::optional<double> expected{};
  double allowed = 0;  ///< distance of the two

  bool off() const { return expected && !(std::abs(measured.value - *expected) <= allowed); }
};

struct QuantizerMeasurement {
  const QuantizerRow* row = nullptr;
  Judged error;         ///< sum (x - q)^2 / sum x^2
  Judged misalignment;  ///< 1 - <x, q> / <x, x>
  double cosine = 0;    ///< <x, q> / (|x| |q|)
  double clipped = 0;   ///< fraction beyond the format's largest magnitude
  std::optional<Judged> masked{};
  std::optional<Judged> fours{};  ///< fraction of blocks that four over six puts on 4

  bool off() const { return error.off() || misalignment.off() || (masked && masked->off()) || (fours && fours->off()); }
  /// -log2(error) / 2.
  double effective_bits() const;
};

/// Values of a part of the sample, which are in memory at the same time for each thread.
inline constexpr int64_t sample_part_rows = 128;

/// Measures `table` on `parts` * 128 rows of 2048 normal values, the same for every row of it; fewer than 16
/// parts tell little of their spread.
/// Errors may be off by a hundredth, and other numbers by five standard errors of both samples; a sample smaller than
/// the reference's adds five standard errors to the hundredth. Results depend on `parts`, not on threads.
/// `progress(done, of)` is called now and then on the calling thread; may be empty.
std::vector<QuantizerMeasurement> measure(Stream& stream, std::span<const QuantizerRow> table, int64_t parts,
                                          const std::function<void(int64_t done, int64_t of)>& progress = {});

}  // namespace nibble
