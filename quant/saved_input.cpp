#include "quant/saved_input.hpp"

#include "tensor/convert.hpp"

namespace nibble {

SavedInput saved_input(const Recipe& recipe, const LinearSpec& spec) {
  const GradientRecipe& by_weight = recipe.backward.weight;
  const bool read_by_its_step = recipe.forward.input.learns();
  if (spec.input_stays || read_by_its_step) return SavedInput::given;
  if (by_weight.source == Source::multiplied && recipe.forward.input.packable()) return SavedInput::multiplied;
  return by_weight.other.packable() ? SavedInput::other : SavedInput::given;
}

namespace {

template <class Memory>
void take(Memory& memory, const Recipe& recipe, const LinearSpec& spec, int64_t tokens, LinearSaved& saved) {
  const SavedInput kind = saved_input(recipe, spec);
  if (kind == SavedInput::given) return;
  const bool multiplied = kind == SavedInput::multiplied;
  const Quantizer& q = multiplied ? recipe.forward.input : recipe.backward.weight.other;
  const int64_t outer = multiplied ? tokens : spec.in, depth = multiplied ? spec.in : tokens;
  // Rows of a few bytes that began on cache lines would be twice as long.
  const auto take_bytes = [&](int64_t rows, int64_t cols) {
    const Tensor bytes = memory.take(DType::u8, 1, rows * cols);
    return Tensor(DType::u8, bytes.data, rows, cols, cols, bytes.place);
  };
  saved.factor = memory.take(DType::f32, 1, 1);
  saved.parts.codes = memory.take(DType::u8, outer, depth / 8 * q.element->bits());
  if (q.blocks()) saved.parts.scales = take_bytes(outer, depth / q.group);
  if (recipe.forward.input.mask != MaskRule::all) saved.parts.mask = take_bytes(tokens, spec.in / 8);
  if (q.extent == Extent::row) saved.row_scale = memory.take(DType::f32, 1, outer);
}

}  // namespace

void take_saved_input(Arena& memory, const Recipe& recipe, const LinearSpec& spec, int64_t tokens, LinearSaved& saved) {
  take(memory, recipe, spec, tokens, saved);
}
void take_saved_input(LinearScratch& memory, const Recipe& recipe, const LinearSpec& spec, int64_t tokens,
                      LinearSaved& saved) {
  take(memory, recipe, spec, tokens, saved);
}

void save_scales(Stream& stream, const Operand& operand, const LinearSaved& saved) {
  keep(stream, operand.factor, saved.factor);
  const Tensor& scale = operand.row_scale ? operand.row_scale : operand.col_scale;
  if (scale) copy(stream, scale, saved.row_scale);
}

}  // namespace nibble
