#include "quant/recipe.hpp"

#include "tensor/error.hpp"

namespace nibble {
namespace {

constexpr Recipe table[] = {
    {"fp32", DType::f32},
    {"bf16", DType::bf16},
};

}  // namespace

std::span<const Recipe> recipes() { return table; }

const Recipe& find_recipe(std::string_view name) {
  std::string allowed;
  for (const Recipe& recipe : table) {
    if (recipe.name == name) return recipe;
    allowed += (allowed.empty() ? "" : ", ") + std::string(recipe.name);
  }
  throw Error({.kind = ErrorKind::configuration,
               .what = "unknown recipe",
               .where = "precision.recipe",
               .seen = std::string(name),
               .allowed = allowed});
}

}  // namespace nibble
