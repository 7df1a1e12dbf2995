#include "quant/recipe_check.hpp"

#include <fmt/format.h>

#include "quant/hadamard.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

/// Of a block's scales in one correction: what the kernel keeps at hand.
constexpr int most_corrected_blocks = 16;
constexpr int most_group = 4096, square_group = 16, most_history = 1 << 20;

struct Part {
  const Recipe& recipe;
  const char* name;  ///< "forward.weight"

  std::string place() const { return fmt::format("recipe {}, {}", recipe.name, name); }
  void require(bool meant, const char* what, const std::string& seen, const char* allowed) const {
    if (meant) return;
    throw Error({.kind = ErrorKind::configuration,
                 .what = what,
                 .where = place(),
                 .seen = seen,
                 .allowed = allowed,
                 .next = {}});
  }
};

void check_scale(const Quantizer& q, const Part& part) {
  const bool f32 = q.scale == ScaleFormat::f32, e4m3 = q.scale == ScaleFormat::e4m3;
  part.require(f32 || q.blocks(), "a block's scale format where there are no blocks",
               "scale: e8m0 or e4m3 with extent: tensor or row", "scale: f32, or extent: block or square");
  if (!q.blocks())
    part.require(q.group == 0, "a group where there are no blocks", fmt::format("group: {}", q.group), "0");
  if (q.blocks())
    part.require(q.group > 0 && q.group % 8 == 0 && q.group <= most_group, "a block's size is out of range",
                 fmt::format("group: {}", q.group), "a multiple of 8, at most 4096");
  part.require(q.extent != Extent::square ||
                   (q.group == square_group && q.statistic == Statistic::largest && q.correction_group == 0),
               "squares are 16 x 16 under their largest value, without correction",
               fmt::format("group: {}, correction_group: {}", q.group, q.correction_group),
               "group: 16, statistic: largest, correction_group: 0");
  part.require(q.extent != Extent::tensor || q.statistic == Statistic::largest,
               "one scale for the tensor follows its largest value only", "another statistic", "statistic: largest");
  part.require(q.divisor > 0 && q.epsilon >= 0 && q.gain > 0, "a factor of the scale is out of range",
               fmt::format("divisor: {}, epsilon: {}, gain: {}", q.divisor, q.epsilon, q.gain),
               "divisor and gain above 0, epsilon at least 0");
  part.require(!q.round_up || q.scale == ScaleFormat::e8m0, "only powers of two are rounded up", "round_up: true",
               "scale: e8m0");
  part.require(e4m3 ? q.scale_limit > 0 && q.scale_limit <= 448 : q.scale_limit == Quantizer{}.scale_limit,
               "a limit of E4M3 scales that none of them can have", fmt::format("scale_limit: {}", q.scale_limit),
               "above 0, at most 448, with scale: e4m3");
  part.require(q.shrink > 0 && q.shrink <= 1 && (q.shrink == 1 || !f32),
               "values shrink under scales that are rounded; an f32 scale has its divisor",
               fmt::format("shrink: {}", q.shrink), "above 0, at most 1, with scale: e8m0 or e4m3");
  part.require(
      !q.learns() || (f32 && q.extent == Extent::tensor && q.divisor == 1 && q.epsilon == 0 && q.gain == 1 &&
                      q.rounding == Rounding::nearest && q.sparsity == Sparsity::none && q.mask == MaskRule::clip &&
                      q.mask_width == q.element->max),
      "a learned step is all of its tensor's scale, and masks what lies beyond the outermost level",
      "other fields beside it",
      "scale: f32, extent: tensor, divisor: 1, epsilon: 0, gain: 1, rounding: nearest, sparsity: none, mask: clip, "
      "mask_width: the largest value");
  part.require(q.history >= 0 && q.history <= most_history && (q.history == 0 || q.needs_tensor_statistic()),
               "no statistic of the tensor that could be delayed", fmt::format("history: {}", q.history),
               "steps, with extent: tensor or scale: e4m3");
}

void check_rounding(const Quantizer& q, const Part& part) {
  part.require(q.rounding == Rounding::nearest || !q.element->half_odd(),
               "half-odd levels are not rounded stochastically", std::string(q.element->name), "rounding: nearest");
  if (q.choice != BlockChoice::none) {
    part.require(q.scale == ScaleFormat::e4m3 && q.element == &formats::e2m1,
                 "the choice between 4 and 6 is one of E2M1 elements under E4M3 scales", std::string(q.element->name),
                 "element: e2m1, scale: e4m3");
    part.require(q.mask == MaskRule::all && q.correction_group == 0 && q.sparsity == Sparsity::none,
                 "a choice of scales goes with no mask, correction or sparsity", "one of them", "choice: none");
    part.require(q.choice != BlockChoice::shifted || q.rounding == Rounding::nearest,
                 "shifted grids are rounded to nearest", "rounding: stochastic", "rounding: nearest");
  }
  if (q.correction_group != 0) {
    part.require(q.scale == ScaleFormat::e4m3, "a correction goes into E4M3 scales", "another scale", "scale: e4m3");
    part.require(q.correction_group > 0 && q.group > 0 && q.correction_group % q.group == 0 &&
                     q.correction_group / q.group <= most_corrected_blocks,
                 "a correction spans whole blocks",
                 fmt::format("correction_group: {}, group: {}", q.correction_group, q.group), "1 to 16 of them");
    part.require(q.sparsity == Sparsity::none, "a correction knows nothing of zeros that are put in", "sparsity",
                 "sparsity: none");
  }
}

void check_mask(const Quantizer& q, const Part& part, bool forward) {
  part.require(forward || q.mask == MaskRule::all, "the operands of gradients have no gradient to mask", "a mask",
               "mask: all");
  part.require((q.mask == MaskRule::all) == (q.mask_width == 0) && q.mask_width >= 0,
               "a mask's width is missing, or its rule", fmt::format("mask_width: {}", q.mask_width),
               "above 0 with mask: clip or trust, else 0");
  part.require(q.mask != MaskRule::trust || q.statistic != Statistic::largest,
               "under the largest value nothing lies beyond the levels that a trust mask could take out",
               "statistic: largest", "statistic: root_mean_square or standard_deviation");
}

void check(const Quantizer& q, const Part& part, bool forward, std::vector<std::string>& warnings) {
  if (!q.quantizes()) {
    part.require(q == Quantizer{}, "a quantizer without an element format", "fields beside it", "element: e2m1");
    return;
  }
  check_scale(q, part);
  check_rounding(q, part);
  check_mask(q, part, forward);
  if (q.choice == BlockChoice::four_over_six && q.rounding == Rounding::stochastic)
    warnings.push_back(
        fmt::format("{}: four-over-six with stochastic rounding is biased: it keeps the draw that fell nearer, and one "
                    "value among zeros has the mean 65/64 of itself",
                    part.place()));
}

void check(const Rotation& rotation, const Part& part) {
  part.require(rotation.size == 0 || rotation.size == Rotation::full ||
                   (rotation.size > 1 && rotation.size <= most_group && Hadamard::exists(rotation.size)),
               "no Hadamard transform has this size", fmt::format("size: {}", rotation.size),
               "full, or an order such as 16, 32, 64, 128");
  part.require(rotation || rotation.signs == Signs::none, "signs without a rotation", "size: 0", "signs: none");
}

void check(const GradientRecipe& gradient, const Part& part) {
  check(gradient.rotation, part);
  check(gradient.left, part);
  part.require(
      !gradient.left || (gradient.left.signs == Signs::none && !gradient.rotation && !gradient.other.quantizes()),
      "a rotation from the left stands alone", "rotation, signs or other beside left", "left: {size: ...} and error");
}

}  // namespace

std::vector<std::string> check(const Recipe& recipe) {
  std::vector<std::string> warnings;
  const ForwardRecipe& forward = recipe.forward;
  const BackwardRecipe& backward = recipe.backward;
  const Part features{recipe, "forward.rotation"}, weight_gradient{recipe, "backward.weight"};
  check(forward.rotation, features);
  features.require(forward.rotation.signs == Signs::none, "the forward product is rotated without signs",
                   "signs: fixed or random", "signs: none");
  check(forward.input, {recipe, "forward.input"}, true, warnings);
  check(forward.weight, {recipe, "forward.weight"}, true, warnings);
  features.require(!recipe.learns() || !forward.rotation, "steps are learned of operands that are not rotated",
                   "a rotation", "size: 0");
  check(backward.input, {recipe, "backward.input"});
  check(backward.weight, weight_gradient);
  weight_gradient.require(!backward.weight.left, "the weight gradient has no rotation from the left", "left",
                          "left in backward.input only");
  check(backward.input.error, {recipe, "backward.input.error"}, false, warnings);
  check(backward.input.other, {recipe, "backward.input.other"}, false, warnings);
  check(backward.weight.error, {recipe, "backward.weight.error"}, false, warnings);
  check(backward.weight.other, {recipe, "backward.weight.other"}, false, warnings);
  return warnings;
}

}  // namespace nibble
