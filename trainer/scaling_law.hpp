// Scaling laws as data: the loss that a run ends with, as a function of its size, its tokens and its number formats.
//
//   ln L = ln( E + R + X ),   R = ( A / (N eff_N)^alpha + B / (D eff_D)^beta )^gamma
//
// The laws are this one form. They differ in what the effective sizes eff_N and eff_D are made of, in whether gamma is
// free, and in whether rounding adds an excess X of its own. All constants are positive and are fitted by their
// logarithms, which `values` below are.
// Not for: the minimisation (law_minimum.hpp), which run goes into which part of a fit (law_fit.hpp).
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace nibble {

/// A run as the laws see it.
struct LawPoint {
  double log_parameters = 0;  ///< ln N, without embedding and head
  double log_tokens = 0;      ///< ln D
  double log_loss = 0;        ///< of the loss in nats per token
  /// Places among the values of a fit; none: 1.
  std::optional<size_t> parameter_efficiency{}, data_efficiency{};

  // Of the forward pass's operands, weights first; each only for the law that reads it.
  std::array<double, 2> bits{16, 16};
  std::array<double, 2> log_quarter_error{};  ///< log_{1/4} of the relative squared error on normal values; 0: exact
  bool rounded = false;                       ///< whether the next three mean something
  double exponent_bits = 0, mantissa_bits = 0, log_block = 0;  ///< of the weights; the last to base two
};

struct LawConstant {
  const char* name;  ///< as the paper writes it
  double low, high;  ///< where a fit starts, between these; of A and B, and of E, see law_start()
};

/// Places of the constants that all laws have, in `ScalingLaw::constants` and in `values`.
enum CommonConstant : size_t { law_a, law_alpha, law_b, law_beta, law_e, common_constants };

/// What is fitted of each recipe by itself.
enum class FreeEfficiency {
  none,
  of_parameters,           ///< eff of the recipe's forward pass, together with the constants
  of_parameters_and_data,  ///< eff_N forward, eff_D backward, after the constants
};

struct ScalingLaw {
  const char *name, *formula, *source;
  double huber;  ///< where residuals of ln L stop counting by their squares, as the authors have it
  FreeEfficiency efficiency = FreeEfficiency::none;
  std::vector<LawConstant> constants{};
  bool has_gamma = false;  ///< the constant behind the common ones
  /// ln eff_N by the law's own constants, which stand behind the common ones, with its derivatives; null: 1.
  double (*log_efficiency)(const LawPoint&, std::span<const double> own, std::span<double> derivatives) = nullptr;
  /// ln X of a rounded run, with the derivatives by all constants; null: no excess.
  double (*log_excess)(const LawPoint&, std::span<const double> values, std::span<double> derivatives) = nullptr;

  /// Constants that formats, not sizes, must tell.
  size_t own_constants() const { return constants.size() - common_constants - (has_gamma ? 1 : 0); }
};

/// In the order in which help lists them.
const std::vector<ScalingLaw>& scaling_laws();
/// Throws Error{configuration} for an unknown name, with the nearest one.
const ScalingLaw& find_law(const std::string& name);

/// ln L. `values`: logarithms of the law's constants, then of efficiencies. `gradient` is empty or as long as `values`,
/// and is overwritten: the derivatives of ln L, which are the shares of the terms in the loss times those of the terms'
/// logarithms.
double law_log_loss(const ScalingLaw& law, const LawPoint& point, std::span<const double> values,
                    std::span<double> gradient = {});

/// Where a search starts: E a share of the least loss, A and B such that their terms have `uniform[...]`'s shares in
/// the middle of the points, all else within its range. `uniform`: one number in [0, 1) for each of `values`. `fixed`:
/// one for each of `values`; these are kept.
std::vector<double> law_start(const ScalingLaw& law, std::span<const LawPoint> points, std::span<const double> uniform,
                              std::span<const std::optional<double>> fixed);

}  // namespace nibble
