// Training methods as data: each recipe is a row that says what the three products of a linear layer multiply.
//
//   forward          y  = Q(x R) Q(w R)^T
//   input gradient   dx = Q(dy R') Q(w' R')^T     reduction over the output features
//   weight gradient  dw = Q(dy^T R') Q(x'^T R')^T   reduction over the tokens
//
// where w', x' are what the forward product multiplied, or what it was given. R cancels in the forward product; results
// of the gradients are masked and turned back by R^T. Forward and backward rows combine freely.
// Not for: quantizers (quantizers.hpp), the computation (quantized_linear.cpp).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "quant/quantizer.hpp"
#include "tensor/dtype.hpp"

namespace nibble {

struct ForwardRecipe {
  Rotation rotation{};  ///< of the input features
  Quantizer input{}, weight{};

  bool operator==(const ForwardRecipe&) const = default;
};

/// What a gradient's product reads of the forward pass; both in the rotated basis of the forward product.
enum class Source { multiplied, given };

struct GradientRecipe {
  Rotation rotation{};  ///< of the reduction axis
  Rotation left{};      ///< of the tokens, undone on the result: HALO-2's, for the input gradient alone
  Quantizer error{};    ///< of dy
  Source source = Source::multiplied;
  Quantizer other{};  ///< of w' or x'; none: as it is

  bool operator==(const GradientRecipe&) const = default;
};

struct BackwardRecipe {
  GradientRecipe input{}, weight{};
  bool signs_for_each_product = false;  ///< random signs are drawn for each product, not once for both

  bool operator==(const BackwardRecipe&) const = default;
};

struct Recipe {
  std::string name;
  ForwardRecipe forward{};
  BackwardRecipe backward{};
  /// Of what is not quantized, and of the model's working weights and saved activations.
  DType operands = DType::bf16;

  bool quantizes() const;
  /// Whether its linear layers have parameters of their own: LinearCall::steps.
  bool learns() const { return forward.input.learns() || forward.weight.learns(); }
  /// Whether a quantizer takes its statistic from earlier steps, for which the host waits in every call.
  bool delays() const;
  bool operator==(const Recipe&) const = default;
};

/// The rows with names of their own, in the order in which help lists them. Families (find_recipe) are not among them.
const std::vector<Recipe>& recipes();
/// What find_recipe reads besides, for help and messages: "quest-wXaY with 1 to 8 bits ..."
std::vector<std::string> recipe_families();

/// A row, or a member of a family: quest-wXaY, quest-wXaY-plain (no rotation), lsq-wXaY, pact-wXaY, ste-wXaY with X, Y
/// from 1 (ste: 2) to 8, or 16 for Y: not quantized. Nothing for an unknown name.
std::optional<Recipe> recipe_named(const std::string& name);
/// The same; throws Error{configuration} for an unknown name.
Recipe find_recipe(const std::string& name);
/// The forward row of one, the backward row of the other.
Recipe combine(const Recipe& forward, const Recipe& backward);
/// The same products and rotations in fp32 with nothing rounded: equal to the plain layer but for the order of sums.
Recipe without_rounding(Recipe recipe);

}  // namespace nibble
