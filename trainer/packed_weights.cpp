#include "trainer/packed_weights.hpp"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstring>

#include "quant/block_quantizer.hpp"
#include "quant/quantize.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

std::array<float, 256> values_of(const ElementFormat& format) {
  std::array<float, 256> values{};
  for (int code = 0; code < format.codes(); ++code) values[static_cast<size_t>(code)] = format.value(code);
  return values;
}

float number_at(std::span<const std::byte> bytes, int64_t index) {
  float value;
  std::memcpy(&value, bytes.data() + static_cast<size_t>(index) * sizeof value, sizeof value);
  return value;
}

}  // namespace

float packed_magnitude(Stream& stream, const Tensor& rows, const std::string& where) {
  const float largest = value_of(stream, tensor_statistic(stream, {.values = rows}, {}));
  if (std::isfinite(largest)) return largest;
  throw Error({.kind = ErrorKind::numerics,
               .what = "a weight that is to be packed is infinite or not a number",
               .where = where,
               .seen = fmt::format("{}", largest),
               .allowed = "finite weights",
               .next = "the model has diverged: export an earlier checkpoint"});
}

PackedRows pack_rows(Stream& stream, const Quantizer& quantizer, const Tensor& rows, float magnitude) {
  PackedRows packed{.codes = OwnedTensor(DType::u8, rows.rows, rows.cols * quantizer.element->bits() / 8, "packed"),
                    .scales = {},
                    .row_scales = {}};
  if (quantizer.blocks()) packed.scales = OwnedTensor(DType::u8, rows.rows, rows.cols / quantizer.group, "packed");
  if (quantizer.extent == Extent::row) packed.row_scales = OwnedTensor(DType::f32, 1, rows.rows, "packed");
  const Operand operand = quantize(stream, {.values = rows}, {.quantizer = quantizer}, magnitude, {}, packed.row_scales,
                                   {.codes = packed.codes, .scales = packed.scales});
  packed.tensor_scale = value_of(stream, operand.factor);
  return packed;
}

float stored_tensor_scale(PackedFormat format, float tensor_scale, const std::string& where) {
  if (format != PackedFormat::nvfp4) return tensor_scale;
  const float divisor = 1 / tensor_scale;
  if (std::isfinite(divisor)) return divisor;
  throw Error({.kind = ErrorKind::numerics,
               .what = "weights are so small that nvfp4's global scale, a divisor, is infinite",
               .where = where,
               .seen = fmt::format("a tensor scale of {}", tensor_scale),
               .allowed = "at least 3e-39",
               .next = "export without --quantize"});
}

void unpack_rows(PackedFormat format, const StoredRows& stored, const Tensor& into) {
  static const std::array<float, 256> e2m1 = values_of(formats::e2m1), e4m3 = values_of(formats::e4m3),
                                      int8 = values_of(formats::int8);
  const auto codes = [&](int64_t index) { return std::to_integer<uint8_t>(stored.codes[static_cast<size_t>(index)]); };
  const bool blocks = format == PackedFormat::nvfp4 || format == PackedFormat::mxfp4, rows = !stored.scales.empty();
  const int64_t group = default_quantizer(format).group;
  for (int64_t i = 0; i < into.rows; ++i) {
    float* const row = into.row<float>(i);
    for (int64_t j = 0; j < into.cols; ++j) {
      const int64_t element = i * into.cols + j;
      if (!blocks) {
        const float scale = rows ? number_at(stored.scales, i) : stored.tensor_scale;
        row[j] = (format == PackedFormat::fp8 ? e4m3 : int8)[codes(element)] * scale;
        continue;
      }
      const auto code = std::to_integer<uint32_t>(stored.scales[static_cast<size_t>(element / group)]);
      const float scale =
          format == PackedFormat::nvfp4 ? e4m3[code] / stored.tensor_scale : block_scale_of(ScaleFormat::e8m0, code);
      row[j] = e2m1[(codes(element / 2) >> (4 * (element % 2))) & 15u] * scale;
    }
  }
}

}  // namespace nibble
