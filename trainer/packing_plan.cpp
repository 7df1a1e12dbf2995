#include "trainer/packing_plan.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "tensor/error.hpp"

namespace nibble {
namespace {

constexpr int64_t square = 16;

Recipe recipe_of(const ParameterLayout& layout, const Precision& precision, int buffer) {
  const BufferInfo& info = layout.buffers()[static_cast<size_t>(buffer)];
  return precision.phases(info.layer, layout.projection(buffer)).back().recipe;
}

/// Whether squares of the buffer are squares of its matrices.
bool squares_fit(const ParameterLayout& layout, int buffer) {
  return std::ranges::all_of(layout.parameters(), [&](const ParameterInfo& info) {
    return info.buffer != buffer || (info.first_row % square == 0 && info.rows % square == 0);
  });
}

/// Why no format has the codes of a recipe's weights; empty where one has.
std::string obstacle(const Recipe& recipe, const ParameterLayout& layout, int buffer) {
  const Quantizer& weight = recipe.forward.weight;
  if (!weight.quantizes()) return fmt::format("{} does not quantize weights", recipe.name);
  if (recipe.forward.rotation)
    return fmt::format(
        "{} turns weights and activations by a Hadamard transform before it quantizes, which readers of "
        "the file do not",
        recipe.name);
  if (!format_of(weight)) return fmt::format("no format of the file has the elements and scales of {}", recipe.name);
  if (weight.extent == Extent::square && !squares_fit(layout, buffer))
    return fmt::format("squares of {} reach over two matrices", recipe.name);
  return {};
}

PackedProjection pack(const Recipe& recipe, PackedFormat format, const ParameterLayout& layout, int buffer) {
  const ForwardRecipe& forward = recipe.forward;
  std::string because = obstacle(recipe, layout, buffer);
  if (because.empty() && format_of(forward.weight) != format)
    because = fmt::format("{} trains {}", recipe.name, name(*format_of(forward.weight)));
  if (!because.empty()) return {default_quantizer(format), because};
  const bool says_input = format_of(forward.input) == format && forward.input.extent != Extent::square;
  return {forward.weight, {}, says_input ? forward.input : Quantizer{}};
}

template <class Action>
void for_each_projection(const ParameterLayout& layout, Action&& action) {
  for (int buffer = 0; buffer < std::ssize(layout.buffers()); ++buffer)
    if (layout.buffers()[static_cast<size_t>(buffer)].kind == ParameterKind::projection) action(buffer);
}

bool quantizes_weights(const ParameterLayout& layout, const Precision& precision) {
  bool quantizes = false;
  for_each_projection(layout, [&](int buffer) {
    quantizes = quantizes || recipe_of(layout, precision, buffer).forward.weight.quantizes();
  });
  return quantizes;
}

}  // namespace

int64_t PackingPlan::packed() const {
  return std::ranges::count_if(buffers, [](const auto& projection) { return projection.has_value(); });
}
int64_t PackingPlan::trained() const {
  return std::ranges::count_if(buffers, [](const auto& projection) { return projection && projection->trained(); });
}
std::string PackingPlan::rounded_because() const {
  for (const auto& projection : buffers)
    if (projection && !projection->trained()) return projection->rounded_because;
  return {};
}

PackingPlan plan_packing(const ParameterLayout& layout, const Precision& precision, PackedFormat format) {
  PackingPlan plan{.format = format, .working = precision.operands(), .buffers = {}};
  plan.buffers.resize(layout.buffers().size());
  const bool all = !quantizes_weights(layout, precision);
  for_each_projection(layout, [&](int buffer) {
    const BufferInfo& info = layout.buffers()[static_cast<size_t>(buffer)];
    const Recipe recipe = recipe_of(layout, precision, buffer);
    if (!all && !recipe.forward.weight.quantizes()) return;
    require_packable(format, info.cols, info.name);
    plan.buffers[static_cast<size_t>(buffer)] = pack(recipe, format, layout, buffer);
  });
  return plan;
}

PackedFormat trained_format(const ParameterLayout& layout, const Precision& precision) {
  std::string because;
  std::optional<PackedFormat> format;
  const auto note = [&](std::string found) {
    if (because.empty()) because = std::move(found);
  };
  if (!quantizes_weights(layout, precision)) note(fmt::format("{} does not quantize weights", precision.recipe().name));
  for_each_projection(layout, [&](int buffer) {
    const Recipe recipe = recipe_of(layout, precision, buffer);
    if (!recipe.forward.weight.quantizes()) return;
    note(obstacle(recipe, layout, buffer));
    const std::optional<PackedFormat> here = format_of(recipe.forward.weight);
    if (format && here && format != here)
      note(fmt::format("{} and {} stand beside each other", name(*format), name(*here)));
    format = here;
  });
  if (because.empty()) return format.value();
  std::vector<std::string> names;
  for (const Recipe& recipe : recipes())
    if (!recipe.forward.rotation && format_of(recipe.forward.weight)) names.push_back(recipe.name);
  throw Error({.kind = ErrorKind::configuration,
               .what = "the file cannot hold the codes that training multiplied",
               .where = "--quantize trained",
               .seen = because,
               .allowed = fmt::format("recipes whose forward pass is that of {}, ste-w8aY", fmt::join(names, ", ")),
               .next = "name a format (--quantize nvfp4, mxfp4, fp8 or int8): weights are then rounded to nearest, and "
                       "--data FILE measures what that costs"});
}

}  // namespace nibble
