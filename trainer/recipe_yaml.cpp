#include "trainer/recipe_yaml.hpp"

#include <algorithm>

#include "quant/named_quantizers.hpp"
#include "quant/recipe_check.hpp"

namespace nibble {

// The parts: name, member. What is not written is as in a new one.

template <>
inline constexpr std::pair<std::string_view, ScaleFormat> words<ScaleFormat>[] = {
    {"f32", ScaleFormat::f32}, {"e8m0", ScaleFormat::e8m0}, {"e4m3", ScaleFormat::e4m3}};
template <>
inline constexpr std::pair<std::string_view, Extent> words<Extent>[] = {
    {"tensor", Extent::tensor}, {"row", Extent::row}, {"block", Extent::block}, {"square", Extent::square}};
template <>
inline constexpr std::pair<std::string_view, Statistic> words<Statistic>[] = {
    {"largest", Statistic::largest},
    {"root_mean_square", Statistic::root_mean_square},
    {"standard_deviation", Statistic::standard_deviation}};
template <>
inline constexpr std::pair<std::string_view, LearnedStep> words<LearnedStep>[] = {
    {"none", LearnedStep::none}, {"lsq", LearnedStep::lsq}, {"pact", LearnedStep::pact}};
template <>
inline constexpr std::pair<std::string_view, Rounding> words<Rounding>[] = {{"nearest", Rounding::nearest},
                                                                            {"stochastic", Rounding::stochastic}};
template <>
inline constexpr std::pair<std::string_view, BlockChoice> words<BlockChoice>[] = {
    {"none", BlockChoice::none}, {"four_over_six", BlockChoice::four_over_six}, {"shifted", BlockChoice::shifted}};
template <>
inline constexpr std::pair<std::string_view, MaskRule> words<MaskRule>[] = {
    {"all", MaskRule::all}, {"clip", MaskRule::clip}, {"trust", MaskRule::trust}};
template <>
inline constexpr std::pair<std::string_view, Sparsity> words<Sparsity>[] = {
    {"none", Sparsity::none}, {"two_of_four_pairs", Sparsity::two_of_four_pairs}};
template <>
inline constexpr std::pair<std::string_view, Signs> words<Signs>[] = {
    {"none", Signs::none}, {"fixed", Signs::fixed}, {"random", Signs::random}};
template <>
inline constexpr std::pair<std::string_view, Source> words<Source>[] = {{"multiplied", Source::multiplied},
                                                                        {"given", Source::given}};

namespace {

/// An element format as it is written: its name is a text of its own here.
struct DescribedFormat {
  std::string name{};
  int exponent_bits = 0, mantissa_bits = 0, min_exponent = 0;
  float max = 0, offset = 0;
};

}  // namespace

template <>
inline constexpr auto fields<DescribedFormat> = std::tuple{Field{"name", &DescribedFormat::name},
                                                           Field{"exponent_bits", &DescribedFormat::exponent_bits},
                                                           Field{"mantissa_bits", &DescribedFormat::mantissa_bits},
                                                           Field{"min_exponent", &DescribedFormat::min_exponent},
                                                           Field{"max", &DescribedFormat::max},
                                                           Field{"offset", &DescribedFormat::offset}};
template <>
inline constexpr auto fields<Quantizer> = std::tuple{
    Field{"element", &Quantizer::element},
    Field{"scale", &Quantizer::scale},
    Field{"extent", &Quantizer::extent},
    Field{"group", &Quantizer::group},
    Field{"statistic", &Quantizer::statistic},
    Field{"divisor", &Quantizer::divisor},
    Field{"epsilon", &Quantizer::epsilon},
    Field{"round_up", &Quantizer::round_up},
    Field{"scale_limit", &Quantizer::scale_limit},
    Field{"shrink", &Quantizer::shrink},
    Field{"gain", &Quantizer::gain},
    Field{"rounding", &Quantizer::rounding},
    Field{"choice", &Quantizer::choice},
    Field{"correction_group", &Quantizer::correction_group},
    Field{"mask", &Quantizer::mask},
    Field{"mask_width", &Quantizer::mask_width},
    Field{"sparsity", &Quantizer::sparsity},
    Field{"learned", &Quantizer::learned},
    Field{"history", &Quantizer::history},
};
template <>
inline constexpr auto fields<Rotation> =
    std::tuple{Field{"size", &Rotation::size, "full"}, Field{"signs", &Rotation::signs}};
template <>
inline constexpr auto fields<ForwardRecipe> =
    std::tuple{Field{"rotation", &ForwardRecipe::rotation}, Field{"input", &ForwardRecipe::input},
               Field{"weight", &ForwardRecipe::weight}};
template <>
inline constexpr auto fields<GradientRecipe> =
    std::tuple{Field{"rotation", &GradientRecipe::rotation}, Field{"left", &GradientRecipe::left},
               Field{"error", &GradientRecipe::error}, Field{"source", &GradientRecipe::source},
               Field{"other", &GradientRecipe::other}};
template <>
inline constexpr auto fields<BackwardRecipe> =
    std::tuple{Field{"input", &BackwardRecipe::input}, Field{"weight", &BackwardRecipe::weight},
               Field{"signs_for_each_product", &BackwardRecipe::signs_for_each_product}};
template <>
inline constexpr auto fields<Recipe> =
    std::tuple{Field{"name", &Recipe::name}, Field{"forward", &Recipe::forward}, Field{"backward", &Recipe::backward}};

namespace {

std::optional<Recipe> row(const std::string& name, std::vector<std::string>& names) {
  names = recipe_names();
  return recipe_named(name);
}

/// The same error, at a place in a file.
Error placed(const Error& error, const std::string& place) {
  ErrorDetail detail = error.detail();
  detail.where = fmt::format("{}, {}", place, detail.where);
  return Error(detail);
}

}  // namespace

template <>
std::optional<Quantizer> named(const std::string& name, std::vector<std::string>& names) {
  for (const auto& [known, quantizer] : named_quantizers()) {
    if (known == name) return quantizer;
    names.emplace_back(known);
  }
  return std::nullopt;
}
template <>
std::optional<ForwardRecipe> named(const std::string& name, std::vector<std::string>& names) {
  const std::optional<Recipe> found = row(name, names);
  return found ? std::optional(found->forward) : std::nullopt;
}
template <>
std::optional<BackwardRecipe> named(const std::string& name, std::vector<std::string>& names) {
  const std::optional<Recipe> found = row(name, names);
  return found ? std::optional(found->backward) : std::nullopt;
}
template <>
std::optional<Recipe> named(const std::string& name, std::vector<std::string>& names) {
  return row(name, names);
}

/// A format by its name, or described.
static void read_yaml(const YAML::Node& node, const PlaceOf& place, const ElementFormat*& format) {
  if (node.IsScalar()) {
    std::vector<std::string> names;
    for (const ElementFormat* known : element_formats()) {
      if (known->name == node.Scalar()) {
        format = known;
        return;
      }
      names.emplace_back(known->name);
    }
    refuse_word(node, place, "unknown element format", names);
  }
  DescribedFormat from;
  read_yaml(node, place, from);
  try {
    format = &lasting_format({.name = from.name,
                              .exponent_bits = from.exponent_bits,
                              .mantissa_bits = from.mantissa_bits,
                              .min_exponent = from.min_exponent,
                              .max = from.max,
                              .offset = from.offset});
  } catch (const Error& error) {
    throw placed(error, place(node));
  }
}
static std::string print_yaml(const ElementFormat* format) {
  if (std::ranges::find(element_formats(), format) != element_formats().end()) return std::string(format->name);
  return print_yaml(DescribedFormat{std::string(format->name), format->exponent_bits, format->mantissa_bits,
                                    format->min_exponent, format->max, format->offset});
}

Recipe read_recipe(const YAML::Node& node, const PlaceOf& place) {
  if (!node.IsMap())
    refuse_field(node, place, "no recipe written out", "{name: NAME, forward: {...}, backward: {...}}");
  Recipe recipe;
  read_yaml(node, place, recipe);
  constexpr const char* letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
  if (recipe.name.empty() || recipe.name.find_first_not_of(letters) != std::string::npos)
    refuse_field(node, place, fmt::format("a recipe's name is missing or no word: '{}'", recipe.name),
                 "name: letters, digits and _ . -");
  if (recipe_named(recipe.name))
    refuse_field(node, place, fmt::format("'{}' is the name of another recipe", recipe.name), "name: one of its own");
  try {
    check(recipe);
  } catch (const Error& error) {
    throw placed(error, place(node));
  }
  return recipe;
}

std::string print_recipe(const Recipe& recipe) { return print_yaml(recipe); }

std::vector<std::string> recipe_names(const std::vector<Recipe>& more) {
  std::vector<std::string> names;
  for (const Recipe& recipe : more) names.push_back(recipe.name);
  for (const Recipe& recipe : recipes()) names.push_back(recipe.name);
  for (const std::string& family : recipe_families()) names.push_back(family);
  return names;
}

}  // namespace nibble
