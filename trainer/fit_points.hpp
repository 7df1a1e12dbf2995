// Finished runs as points for scaling laws: size, tokens, final loss and recipe of each, from a table of one's own or
// from runs' directories (fit_runs.hpp).
//
// Not for: the laws (scaling_law.hpp).
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quant/recipe.hpp"
#include "trainer/capacity.hpp"

namespace nibble {

struct FitPoint {
  std::string run;
  double parameters = 0;            ///< N, without embedding and head
  double tokens = 0;                ///< D, tokens seen
  double loss = 0;                  ///< validation loss at the end, in nats per token
  std::optional<double> entropy{};  ///< of the data, in nats per token: known of a synthetic language
  std::string forward = "bf16", backward = "bf16";
  std::optional<ForwardRecipe> formats{};  ///< of all its layers and steps; none: unknown, or not the same everywhere
  FormatFacts given{};                     ///< what a table says itself

  bool quantized_forward() const;
  bool quantized_backward() const;
  bool operator==(const FitPoint&) const = default;
};

struct LeftOut {
  std::string run, why;

  bool operator==(const LeftOut&) const = default;
};

struct FitPoints {
  std::vector<FitPoint> points;
  std::vector<LeftOut> left_out{};           ///< runs that are not finished, or have no loss
  std::vector<std::string> other_columns{};  ///< of tables, that nothing reads
};

/// A pass of this name multiplies what it is given.
bool is_unquantized(const std::string& recipe);

/// Files are tables, directories runs or folders of runs (find_runs of report.hpp).
/// Throws Error{configuration} where there is no such path; Error{data} as read_point_table does; Error{checkpoint} for
/// damaged metrics.
FitPoints read_fit_points(std::span<const std::filesystem::path> paths);

/// A table: CSV with names in its first line (# begins a comment), or JSON lines. Columns: parameters, tokens, loss;
/// optionally run, forward, backward (bf16 where empty), entropy (of the data), weight_bits, input_bits, weight_error,
/// input_error (relative squared errors on normal values), exponent_bits, mantissa_bits, block. Numbers may have units
/// (30M, 2B).
/// Lines of a sweep's runs.jsonl are read by their own names; runs that read_run_point would leave out are left out.
/// Throws Error{data}: unreadable, a column is missing, no number, not positive, a loss that is not finite.
void read_point_table(const std::filesystem::path& file, FitPoints& into);

}  // namespace nibble
