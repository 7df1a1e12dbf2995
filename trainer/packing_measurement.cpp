#include "trainer/packing_measurement.hpp"

#include <algorithm>

#include "comm/local_world.hpp"
#include "tensor/convert.hpp"
#include "tensor/error.hpp"
#include "trainer/memory.hpp"

namespace nibble {
namespace {

constexpr int64_t windows_at_once = 4;

/// The same rules with each recipe changed.
template <class Change>
Precision changed(const Precision& precision, Change&& change) {
  std::vector<PrecisionRule> rules = precision.rules();
  for (PrecisionRule& rule : rules) rule.recipe = change(rule.recipe);
  return {change(precision.recipe()), rules};
}

void round_to_working(ParameterSet& weights, const ParameterLayout& layout, DType working) {
  if (working == DType::f32) return;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (is_vector(layout.parameters()[i].kind)) continue;
    for (int64_t row = 0; row < weights[i].rows; ++row) {
      float* const values = weights[i].row<float>(row);
      std::for_each_n(values, weights[i].cols, [](float& value) { value = static_cast<float>(bf16(value)); });
    }
  }
}

Evaluation evaluate_weights(Stream& stream, const ModelConfig& config, const Precision& precision,
                            const ParameterSet& weights, const Loader& loader, int64_t tokens,
                            const WindowsProgress& progress) {
  Llama model(stream, config, precision,
              {.sequences = windows_at_once, .length = loader.sequence(), .training = false});
  require_held_memory();
  return evaluate(model, weights, loader, tokens, *make_local_world(), progress);
}

}  // namespace

Evaluation evaluate_trained(Stream& stream, LoadedModel& loaded, const Precision& precision, const Loader& loader,
                            int64_t tokens, const WindowsProgress& progress) {
  round_to_working(loaded.weights, loaded.layout, precision.operands());
  const Precision exact = changed(precision, [](const Recipe& recipe) {
    const ForwardRecipe weights{.rotation = recipe.forward.rotation, .weight = recipe.forward.weight};
    return Recipe{.name = recipe.name, .forward = weights, .operands = DType::f32};
  });
  return evaluate_weights(stream, loaded.config, exact, loaded.weights, loader, tokens, progress);
}

Evaluation evaluate_exported(Stream& stream, WeightSource& exported, const Loader& loader, int64_t tokens,
                             const WindowsProgress& progress) {
  const ParameterSet weights(exported.layout(), DType::f32, DType::f32, true, "weights");
  require_held_memory();
  for (size_t i = 0; i < exported.parameters(); ++i) exported.read(i, weights[i]);
  return evaluate_weights(stream, exported.config(), find_recipe("fp32"), weights, loader, tokens, progress);
}

std::vector<float> activation_scales(Stream& stream, LoadedModel& loaded, const Precision& precision,
                                     const PackingPlan& plan, const Loader& loader, int64_t tokens) {
  // A delayed statistic is what keeps the largest magnitude of all calls; its first step quantizes with the current
  // one.
  const Precision noting = changed(precision, [](const Recipe& recipe) {
    Recipe forward{.name = recipe.name, .forward = recipe.forward, .operands = DType::f32};
    if (forward.forward.input.needs_tensor_statistic()) forward.forward.input.history = 1;
    return forward;
  });
  round_to_working(loaded.weights, loaded.layout, precision.operands());
  Llama model(stream, loaded.config, noting, {.sequences = windows_at_once, .length = loader.sequence()});
  const ParameterSet gradients = model.make_gradients();
  require_held_memory();
  const int64_t windows = std::min(loader.evaluation_windows(), (tokens + loader.sequence() - 1) / loader.sequence());
  for (int64_t first = 0; first + windows_at_once <= std::max(windows, windows_at_once); first += windows_at_once) {
    Batch batch = loader.evaluation_batch(first, std::min(windows_at_once, windows - first));
    const auto size = static_cast<size_t>(model.tokens());
    batch.inputs.resize(size, 0);
    batch.targets.resize(size, -1);
    batch.document_starts.resize(size, 0);
    model.loss_and_gradients(loaded.weights, {batch.inputs, batch.targets, batch.document_starts},
                             {.call = {.pass = Pass::training}}, gradients);
  }
  std::vector<float> scales(plan.buffers.size(), 0.0f);
  const std::vector<float*> seen = model.statistics();
  size_t next = 0;
  for (int buffer = 0; buffer < std::ssize(plan.buffers); ++buffer) {
    const BufferInfo& info = loaded.layout.buffers()[static_cast<size_t>(buffer)];
    if (info.kind != ParameterKind::projection) continue;
    const Recipe recipe = precision.phases(info.layer, loaded.layout.projection(buffer)).back().recipe;
    if (!recipe.forward.input.needs_tensor_statistic()) continue;
    const float largest = *seen.at(next++);
    const auto& projection = plan.buffers[static_cast<size_t>(buffer)];
    if (projection && projection->input.quantizes() && largest > 0)
      scales[static_cast<size_t>(buffer)] = formats::e4m3.max * formats::e2m1.max / largest;
  }
  return scales;
}

}  // namespace nibble
