#include "trainer/input_measurement.hpp"

#include <optional>

#include "model/made_inputs.hpp"
#include "quant/linear_fit.hpp"
#include "quant/quantized_linear.hpp"
#include "tensor/convert.hpp"
#include "tensor/fill.hpp"
#include "trainer/queued_time.hpp"

namespace nibble {
namespace {

constexpr const char* purpose = "measured inputs";

/// Where a quantizer writes what the product multiplies, values of a type or codes (u8), and what is saved.
struct Target {
  OwnedTensor values, codes, scales, mask, scale;

  Target(const Quantizer& q, DType type, SavedInput saved, int64_t tokens, int64_t width, Place place) {
    if (type != DType::u8) values = OwnedTensor(type, tokens, width, purpose, place);
    if (type == DType::u8 || saved == SavedInput::multiplied) {
      codes = OwnedTensor(DType::u8, tokens, width / 8 * q.element->bits(), purpose, place);
      if (q.blocks()) scales = OwnedTensor(DType::u8, tokens, width / q.group, purpose, place);
    }
    if (saved != SavedInput::given && q.mask != MaskRule::all)
      mask = OwnedTensor(DType::u8, tokens, width / 8, purpose, place);
    if (q.extent == Extent::row) scale = OwnedTensor(DType::f32, 1, tokens, purpose, place);
  }
  QuantizeArguments arguments(const Quantization& how, const Scalar& statistic) const {
    return {how, statistic, values, scale, {.codes = codes, .scales = scales, .mask = mask}};
  }
  double bytes() const {
    double all = 0;
    for (const OwnedTensor* const one : {&values, &codes, &scales, &mask, &scale})
      all += static_cast<double>(one->view().bytes());
    return all;
  }
};

}  // namespace

std::vector<InputMeasurement> measure_inputs(Stream& stream, const std::vector<Recipe>& recipes, int64_t tokens,
                                             int64_t width) {
  const auto made = [&](DType type, int64_t rows, int64_t cols, uint32_t number) {
    OwnedTensor tensor(type, rows, cols, purpose, stream.place());
    const OwnedTensor drawn(DType::f32, rows, cols, purpose, stream.place());
    fill_normal(stream, RandomStream(1, Purpose::initialization, 0, number), 1, drawn);
    convert(stream, drawn, tensor);
    return tensor;
  };
  const OwnedTensor residual = made(DType::f32, tokens, width, 0), gain = made(DType::f32, 1, width, 1),
                    gate_up = made(DType::bf16, tokens, 2 * width, 2),
                    y(DType::bf16, tokens, width, purpose, stream.place()),
                    inverse_rms(DType::f32, 1, tokens, purpose, stream.place());
  const NormedInput normed(residual, gain, 1e-5f, y, inverse_rms);
  const GatedInput gated(gate_up, y, true);  // as in all blocks but the last
  std::vector<InputMeasurement> all;
  for (const Recipe& recipe : recipes) {
    const auto& [rotation, q, weight] = recipe.forward;
    const bool needs_largest = q.needs_tensor_statistic();
    if (!q.quantizes() || (needs_largest && rotation)) continue;
    const std::optional<Hadamard> hadamard = hadamard_of(rotation, width, recipe.name, "width");
    const Quantization how{.quantizer = q, .hadamard = hadamard ? &*hadamard : nullptr};
    for (const LinearInput* const input :
         {static_cast<const LinearInput*>(&normed), static_cast<const LinearInput*>(&gated)}) {
      const bool is_gated = input == &gated;
      const char* const made_by = is_gated ? "swiglu" : "rms_norm";
      const LinearSpec spec{.name = made_by, .in = width, .out = width, .input_stays = is_gated};
      const SavedInput saved = saved_input(recipe, spec);
      const bool keeps = leaves_matrix(saved, input->returns());
      const Target target(q, QuantizedLinear(recipe, spec).forward_type(stream), saved, tokens, width, stream.place());
      const auto quantize_matrix = [&](const Scalar& statistic) {
        const auto [of, number, values, scale, parts] = target.arguments(how, statistic);
        quantize(stream, {.values = y}, of, number, values, scale, parts);
      };
      InputMeasurement measurement{recipe.name, made_by, {}, {}};
      const double read = static_cast<double>(is_gated ? gate_up.view().bytes() : residual.view().bytes()),
                   matrix = static_cast<double>(y.view().bytes());
      measurement.separate.bytes = read + (needs_largest ? 3 : 2) * matrix + target.bytes();
      measurement.separate.seconds = queued_seconds(stream, [&] {
        input->make(stream);
        quantize_matrix(needs_largest ? tensor_statistic(stream, {.values = y}, how) : Scalar(1));
      });
      measurement.at_once.bytes = read + (needs_largest ? 2 * matrix : keeps ? matrix : 0) + target.bytes();
      measurement.at_once.seconds = queued_seconds(stream, [&] {
        if (needs_largest) quantize_matrix(input->make_with_largest(stream));
        else input->quantize(stream, keeps, target.arguments(how, 1));
      });
      all.push_back(measurement);
    }
  }
  return all;
}

}  // namespace nibble
