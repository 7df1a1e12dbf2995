#include "trainer/cage.hpp"

#include <algorithm>

#include "optim/kernels.hpp"

namespace nibble {

double cage_strength(const CageSettings& settings, int64_t step) {
  const double done = static_cast<double>(step + 1) / static_cast<double>(settings.steps);
  if (settings.strength == 0 || done <= settings.silence) return 0;
  return settings.strength * (done - settings.silence) / (1 - settings.silence);
}

Cage::Cage(Stream& stream, Llama& model, const ShardedWeights& weights, const CageSettings& settings)
    : stream_(stream), model_(model), weights_(weights), settings_(settings) {
  if (settings.strength == 0) return;
  int64_t largest = 0;
  for (const BufferInfo& buffer : model.layout().buffers())
    if (buffer.kind == ParameterKind::projection) largest = std::max(largest, buffer.rows * buffer.cols);
  residual_ = OwnedTensor(DType::f32, 1, largest, "residuals of CAGE", stream.place());
}

void Cage::pull(int64_t step, double learning_rate) {
  const auto factor = static_cast<float>(learning_rate * cage_strength(settings_, step));
  if (factor == 0) return;
  const ParameterLayout& layout = model_.layout();
  const ParameterSet& working = weights_.working();
  for (int unit = 0; unit < layout.units(); ++unit) {
    working.await(unit);
    for (int buffer = 0; buffer < static_cast<int>(layout.buffers().size()); ++buffer) {
      const BufferInfo& info = layout.buffers()[static_cast<size_t>(buffer)];
      if (info.kind != ParameterKind::projection || layout.unit_of(buffer) != unit) continue;
      const std::vector<OwnCodes::Rows> own = weights_.coded_rows(buffer);
      for (const auto& [parameter, rows, magnitude] : own) {
        const Tensor residual = residual_.view().packed_as(rows.rows, rows.cols);
        if (model_.weight_residual(buffer, step, rows, magnitude, residual))
          pull(parameter, residual.packed_as(1, residual.size()), factor);
      }
      const Tensor residual = residual_.view().packed_as(info.rows, info.cols);
      if (!own.empty() || !model_.weight_residual(working, buffer, step, residual)) continue;
      for (const OptimizedParameter& parameter : weights_.parameters())
        if (parameter.info->buffer == buffer)
          pull(parameter,
               residual.run(parameter.info->first_row * info.cols + parameter.first, parameter.master.size()), factor);
    }
  }
}

void Cage::pull(const OptimizedParameter& parameter, const Tensor& residual, float factor) {
  const Tensor master = parameter.master.packed_as(1, residual.size());
  add_scaled(stream_, master, residual, -factor, master);
}

}  // namespace nibble
