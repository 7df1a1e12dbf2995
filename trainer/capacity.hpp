// What a number format leaves of a model's parameters, by the unified law's capacity (arXiv 2506.01863):
//
//   rho = L_sat tanh(F log_{1/4} GMSE)^C,   GMSE = E |x - q|^2 / E |x|^2 on normal values
//
// The factor of N that a representation keeps depends on its Gaussian error alone; of weights and inputs together it is
// the product. Base 1/4 makes GMSE an equivalent number of bits: 4^-b at the best rate.
// Not for: fitting L_sat, F, C (scaling_law.hpp).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quant/recipe.hpp"
#include "tensor/stream.hpp"

namespace nibble {

struct CapacityConstants {
  const char *name, *models;
  double saturation;  ///< L_sat
  double factor;      ///< F
  double power;       ///< C
};

/// Fitted by the paper: on Llama with C4, and on OLMo2 with ClimbMix.
std::span<const CapacityConstants> published_capacity();

/// log_{1/4} of a relative squared error in (0, 1).
double log_quarter(double error);
/// rho of a relative squared error; 1 for 0, what is not quantized; 0 from 1 on.
double capacity(double error, const CapacityConstants& constants);

/// Relative squared errors of an operand's quantizer on normal values, 0 of none; nothing where training learns its
/// step (LSQ, PACT), so that there is none beforehand. `parts` of format_measurement.hpp; `progress` may be empty.
std::vector<std::optional<double>> gaussian_errors(Stream& stream, std::span<const Quantizer> quantizers, int64_t parts,
                                                   const std::function<void(int64_t done, int64_t of)>& progress = {});

/// What the laws read of a forward pass's operands, weights first; none: not known.
struct FormatFacts {
  std::array<std::optional<double>, 2> bits{}, errors{};            ///< 16 and 0 of what is not quantized
  std::optional<double> exponent_bits{}, mantissa_bits{}, block{};  ///< of the weights

  bool operator==(const FormatFacts&) const = default;
};

/// All but the errors. A scale for each row counts as blocks of 2^13.1567, as Capybara has it (arXiv 2501.02423); under
/// one for the tensor, and of integers, that law knows nothing.
FormatFacts format_facts(const ForwardRecipe& recipe);

}  // namespace nibble
