#include "trainer/gpu_estimate.hpp"

#include <algorithm>
#include <limits>

#include "model/parameters.hpp"
#include "quant/coded_operand.hpp"
#include "quant/linear.hpp"

namespace nibble {
namespace {

size_t row(const MemoryTable& table, const char* purpose) {
  const auto found = table.find(purpose);
  return found == table.end() ? 0 : found->second;
}

/// Whether the recipe has operands whose codes are E2M1's.
bool has_e2m1(const Recipe& recipe) {
  const auto coded = [](const Quantizer& quantizer) {
    const std::optional<CodedAs> as = quantizer.quantizes() ? coded_as(quantizer) : std::nullopt;
    return as && as->format == CodeFormat::e2m1;
  };
  return coded(recipe.forward.weight) || coded(recipe.backward.input.error) || coded(recipe.backward.weight.error);
}

/// Seconds that the products of a token with a weight take, forward, once more where it is recomputed, and backward; in
/// the fastest phase.
double seconds_of_weight(Stream& stream, const std::vector<Precision::Phase>& phases, const LinearSpec& spec,
                         const DatasheetPeaks& peaks, bool recomputes) {
  constexpr double operations = 2;
  double least = std::numeric_limits<double>::infinity();
  for (const Precision::Phase& phase : phases) {
    const bool in_four_bits = has_e2m1(phase.recipe);
    const auto seconds = [&](DType type) {
      const double fastest_codes = in_four_bits && peaks.fp4 > 0 ? peaks.fp4 : peaks.fp8;
      const bool coded = type == DType::u8 || type == DType::i8;  // int8 as fast as FP8 on all of them
      return operations * 1e-12 / (type == DType::u8 ? fastest_codes : coded ? peaks.fp8 : peaks.bf16);
    };
    std::vector<DType> types = make_linear({phase}, spec)->product_types(stream);
    types.resize(3, DType::bf16);  // none where all are of the model's type
    least = std::min(least, (recomputes ? 2 : 1) * seconds(types[0]) + seconds(types[1]) + seconds(types[2]));
  }
  return least;
}

}  // namespace

GpuEstimate estimate_step(Stream& stream, const Settings& settings, const ModelConfig& config,
                          const Precision& precision, const RunMemory& memory, const std::vector<MatrixWork>& matrices,
                          const DatasheetPeaks& peaks) {
  const ParameterLayout layout(config);
  const int64_t tokens = settings.batch.micro * settings.data.sequence;
  const bool recomputes = settings.model.recompute == "block";
  const double bf16 = 1e-12 / peaks.bf16, per_byte = 1e-9 / peaks.bandwidth;
  // Of attention: forward, and twice as many products backward; once more forward where activations are not kept.
  const double passes = recomputes ? 8 : 6;
  const auto of_tokens = static_cast<double>(tokens);

  GpuEstimate estimate;
  for (int layer = 0; layer < config.layers; ++layer) {
    const auto add = [&](Projection projection, int buffer) {
      const BufferInfo& info = layout.buffers()[static_cast<size_t>(buffer)];
      const LinearSpec spec{.name = info.name, .in = info.cols, .out = info.rows, .tokens = tokens};
      estimate.turn += of_tokens * static_cast<double>(info.rows * info.cols) *
                       seconds_of_weight(stream, precision.phases(layer, projection), spec, peaks, recomputes);
    };
    add(Projection::qkv, layout.qkv(layer));
    add(Projection::output, layout.output(layer));
    add(Projection::gate_up, layout.gate_up(layer));
    add(Projection::down, layout.down(layer));
    estimate.turn += passes * of_tokens * static_cast<double>(config.query_width() * settings.data.sequence) * bf16;
  }
  estimate.turn += 6 * of_tokens * static_cast<double>(config.width * config.vocabulary) * bf16;
  // What is kept is written and read; weights are read by two passes, and their gradients written.
  const auto parameters = static_cast<double>(config.parameters());
  estimate.turn += per_byte * (2 * static_cast<double>(row(memory.gpu, "activations")) + (2 * 2 + 4) * parameters);

  const size_t masters = row(memory.gpu, "master weights"), moments = row(memory.gpu, "optimizer moments"),
               offloaded_masters = row(memory.table, "pinned master weights"),
               offloaded = offloaded_masters + row(memory.table, "pinned optimizer moments");
  // Gradients, as large as masters, are read for their norm and again; half as much is written of working copies.
  const auto own = static_cast<double>(masters + offloaded_masters);
  estimate.optimizer = std::max(per_byte * (2.5 * own + 2 * static_cast<double>(masters + moments + offloaded)),
                                1e-9 / peaks.host_link * static_cast<double>(offloaded));
  for (const MatrixWork& matrix : matrices) estimate.matrices += matrix.operations * bf16;
  return estimate;
}

}  // namespace nibble
