#include "quant/self_test.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "quant/self_test_checks.hpp"
#include "tensor/error.hpp"
#include "tensor/fill.hpp"

namespace nibble {
namespace {

using namespace self_test_checks;

/// The row of the table that has this quantizer, or one without reference.
QuantizerRow row_of(const Quantizer& quantizer, const std::string& name) {
  for (const QuantizerRow& row : quantizer_table())
    if (!row.octave && row.quantizer == quantizer) return row;
  return {.name = name, .quantizer = quantizer};
}

std::set<int64_t> orders_of(const Recipe& recipe, const std::vector<int64_t>& widths) {
  std::set<int64_t> orders;
  for (const Rotation& rotation : {recipe.forward.rotation, recipe.backward.input.rotation, recipe.backward.input.left,
                                   recipe.backward.weight.rotation})
    if (rotation.size == Rotation::full) orders.insert(widths.begin(), widths.end());
    else if (rotation) orders.insert(rotation.size);
  return orders;
}

}  // namespace

std::vector<OperandQuantizer> quantizers_of(const Recipe& recipe) {
  const BackwardRecipe& backward = recipe.backward;
  return {{"x of the forward product", recipe.forward.input},   {"w of the forward product", recipe.forward.weight},
          {"dy of the input gradient", backward.input.error},   {"w of the input gradient", backward.input.other},
          {"dy of the weight gradient", backward.weight.error}, {"x of the weight gradient", backward.weight.other}};
}

std::vector<SelfTestFailure> self_test(Stream& stream, const QuantizerRow& row) {
  const Quantizer& quantizer = row.quantizer;
  const OwnedTensor x(DType::f32, 128, reference_cols);
  fill_normal(stream, RandomStream(1, Purpose::initialization), 1, x);
  const std::vector<float> q = quantized(stream, quantizer, x);
  const std::span<const float> exact(x.view().as<float>(), q.size());
  std::vector<SelfTestFailure> failures;
  for (Check check : {zero_block(stream, quantizer), huge_block(stream, quantizer), poisoned_block(stream, quantizer),
                      worked_block(stream, quantizer), bias(row, exact, q), quoted_error(row, exact, q)}) {
    if (!check) continue;
    check->what = row.name;
    failures.push_back(*std::move(check));
  }
  return failures;
}

std::vector<SelfTestFailure> self_test(Stream& stream, const std::vector<Recipe>& recipes,
                                       const std::vector<int64_t>& widths) {
  std::vector<SelfTestFailure> failures;
  const auto add = [&](std::vector<SelfTestFailure> more) { std::ranges::move(more, std::back_inserter(failures)); };
  std::set<const ElementFormat*> elements;
  std::vector<Quantizer> tested;
  std::set<int64_t> orders;
  for (const Recipe& recipe : recipes) {
    orders.merge(orders_of(recipe, widths));
    for (const auto& [operand, quantizer] : quantizers_of(recipe)) {
      if (!quantizer.quantizes() || std::ranges::find(tested, quantizer) != tested.end()) continue;
      tested.push_back(quantizer);
      if (elements.insert(quantizer.element).second) add(self_test(stream, *quantizer.element));
      if (quantizer.scale == ScaleFormat::e4m3 && elements.insert(&formats::e4m3).second)
        add(self_test(stream, formats::e4m3));
      const std::string name = recipe.name + ", " + operand;
      std::vector<SelfTestFailure> found = self_test(stream, row_of(quantizer, name));
      for (SelfTestFailure& failure : found) failure.what = name;
      add(std::move(found));
    }
  }
  for (const int64_t order : orders) add(self_test(stream, Hadamard::of_order(order, "self-test")));
  return failures;
}

void require_sound(Stream& stream, const std::vector<Recipe>& recipes, const std::vector<int64_t>& widths) {
  const std::vector<SelfTestFailure> failures = self_test(stream, recipes, widths);
  if (failures.empty()) return;
  const SelfTestFailure& first = failures.front();
  throw Error(
      {.kind = ErrorKind::numerics,
       .what = fmt::format("the self-test of the quantizers failed: {}", first.property),
       .where = first.what,
       .seen = first.seen,
       .allowed = first.allowed,
       .next = fmt::format("properties that failed: {}; try NIBBLE_ISA=avx2, and report a defect", failures.size())});
}

}  // namespace nibble
