#include "tests/quant/quantize_matrix.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

#include "tensor/convert.hpp"
#include "tensor/dtype.hpp"

namespace nibble {

using reference::Matrix;

namespace {

RandomStream stream_of(Purpose purpose, const QuantizeCall& call) {
  return {call.seed, purpose, call.step, call.tensor};
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::ranges::equal(a, b, {}, std::bit_cast<uint32_t, float>, std::bit_cast<uint32_t, float>);
}

/// Field `number` of little-endian fields of `bits`.
uint32_t bit_field(const uint8_t* bytes, int64_t number, int bits) {
  uint32_t field = 0;
  for (int bit = 0; bit < bits; ++bit) {
    const int64_t place = number * bits + bit;
    field |= (bytes[place / 8] >> place % 8 & 1u) << bit;
  }
  return field;
}

int signed_code(uint32_t field, const ElementFormat& format) {
  const auto code = static_cast<int>(field);
  return format.fixed_point() && code >= format.codes() / 2 ? code - format.codes() : code;
}

/// Element `number` of a row takes 16 bits: the upper neighbour where (word + 0.5) / 2^16 >= 1 - distance to the lower.
float uniform_of(const RandomStream& random, uint32_t part, int64_t row, int64_t draws, int64_t number) {
  const PhiloxBlock words = random.block(uint64_t{part} << 32 | static_cast<uint64_t>(row * draws + number / 8));
  const uint32_t half = words[number % 8 / 2] >> (number % 2 == 0 ? 0 : 16) & 0xffffu;
  return 1 - (static_cast<float>(half) + 0.5f) * 0x1p-16f;
}

}  // namespace

float QuantizedMatrix::value(size_t place, int64_t depth) const {
  const float scaled = values[place] * factor;
  return row_scales.empty() ? scaled : scaled * row_scales[place / static_cast<size_t>(depth)];
}

bool QuantizedMatrix::operator==(const QuantizedMatrix& other) const {
  return same_bits(values, other.values) && codes == other.codes && scale_codes == other.scale_codes &&
         mask == other.mask && same_bits(row_scales, other.row_scales) && same_bits({factor}, {other.factor}) &&
         counts.clipped == other.counts.clipped && counts.masked == other.counts.masked;
}

float element_of(const Tensor& x, int64_t row, int64_t col) {
  if (x.dtype == DType::bf16) return float{x.row<bf16>(row)[col]};
  return x.dtype == DType::i8 ? x.row<int8_t>(row)[col] : x.row<float>(row)[col];
}

OwnedTensor tensor_of(const Matrix& x, DType type, Axis axis) {
  const bool turned = axis == Axis::rows;
  OwnedTensor tensor(type, turned ? x.depth : x.rows, turned ? x.rows : x.depth);
  for (int64_t row = 0; row < x.rows; ++row)
    for (int64_t k = 0; k < x.depth; ++k) {
      const float value = x.values[row * x.depth + k];
      const int64_t i = turned ? k : row, j = turned ? row : k;
      if (type == DType::bf16) tensor.view().row<bf16>(i)[j] = bf16(value);
      else tensor.view().row<float>(i)[j] = value;
    }
  return tensor;
}

Matrix matrix_of(const Tensor& x, Axis axis) {
  const bool turned = axis == Axis::rows;
  Matrix matrix{turned ? x.cols : x.rows, turned ? x.rows : x.cols, {}};
  for (int64_t row = 0; row < matrix.rows; ++row)
    for (int64_t k = 0; k < matrix.depth; ++k)
      matrix.values.push_back(turned ? element_of(x, k, row) : element_of(x, row, k));
  return matrix;
}

QuantizedMatrix quantize_matrix(const Matrix& x, const Quantizer& q, const QuantizeCall& call) {
  Stream stream(call.threads, call.place);
  const auto made = [&](DType type, int64_t rows, int64_t cols) {
    return OwnedTensor(type, rows, cols, "test", call.place);
  };
  const auto here = [&](const Tensor& there) {
    OwnedTensor tensor(there.dtype, there.rows, there.cols, "test");
    copy(stream, there, tensor);
    stream.wait();
    return tensor;
  };
  const OwnedTensor given = tensor_of(x, call.from, call.axis);
  const int64_t rows = given.view().rows, cols = given.view().cols;
  const OwnedTensor from = made(call.from, rows, cols), values = made(call.type, rows, cols);
  copy(stream, given, from);
  const Quantization how{.quantizer = q,
                         .axis = call.axis,
                         .hadamard = call.hadamard,
                         .signs = call.signs,
                         .rounding = stream_of(Purpose::rounding, call),
                         .scale_rounding = stream_of(Purpose::scale_rounding, call),
                         .part = call.part};
  const bool packs = q.packable() && x.depth % 8 == 0, has_scales = packs && q.blocks();
  OwnedTensor codes, scales, mask, row_scales;
  if (packs) codes = made(DType::u8, x.rows, x.depth / 8 * q.element->bits());
  if (has_scales) scales = made(DType::u8, x.rows, x.depth / q.group);
  if (q.mask != MaskRule::all) mask = made(DType::u8, x.rows, x.depth / 8);
  if (q.quantizes() && q.extent == Extent::row) row_scales = made(DType::f32, 1, x.rows);

  QuantizedMatrix result;
  const Scalar statistic = call.statistic               ? Scalar(*call.statistic)
                           : q.needs_tensor_statistic() ? tensor_statistic(stream, {.values = from}, how)
                                                        : Scalar();
  const QuantizedParts parts{codes, scales, mask};
  result.factor = value_of(
      stream, quantize(stream, {.values = from}, how, statistic, values, row_scales, parts, &result.counts).factor);
  result.values = matrix_of(here(values), call.axis).values;
  if (row_scales.view()) result.row_scales = matrix_of(here(row_scales)).values;
  const auto fields = [&](const Tensor& part, int bits, auto&& each) {
    const OwnedTensor bytes = here(part);
    for (int64_t row = 0; row < x.rows; ++row)
      for (int64_t k = 0; k < part.cols * 8 / bits; ++k) each(bit_field(bytes.view().row<uint8_t>(row), k, bits));
  };
  if (packs)
    fields(codes, q.element->bits(), [&](uint32_t code) { result.codes.push_back(signed_code(code, *q.element)); });
  if (has_scales) fields(scales, 8, [&](uint32_t code) { result.scale_codes.push_back(static_cast<int>(code)); });
  if (mask.view()) fields(mask, 1, [&](uint32_t bit) { result.mask.push_back(static_cast<uint8_t>(bit)); });
  if (packs) {
    const OwnedTensor restored = made(call.type, rows, cols);
    restore(stream, q, parts, restored, call.axis);
    result.restored = matrix_of(here(restored), call.axis).values;
  }
  return result;
}

Uniforms uniforms_of(const Matrix& x, const QuantizeCall& call) {
  const RandomStream elements = stream_of(Purpose::rounding, call), scales = stream_of(Purpose::scale_rounding, call);
  const int64_t blocks = x.depth / 16;
  Uniforms result;
  for (int64_t row = 0; row < x.rows; ++row) {
    for (int64_t k = 0; k < x.depth; ++k) {
      result.elements.push_back(uniform_of(elements, call.part, row, (x.depth + 7) / 8, k));
      result.of_four.push_back(uniform_of(scales, call.part, row, (x.depth + 7) / 8, k));
    }
    for (int64_t block = 0; block < blocks; ++block)
      result.scales.push_back(uniform_of(scales, call.part, row, (blocks + 7) / 8, block));
  }
  return result;
}

Matrix normal_matrix(int64_t rows, int64_t depth, uint64_t seed, bool narrow) {
  const RandomStream random(seed, Purpose::initialization);
  Matrix x{rows, depth, {}};
  for (int64_t i = 0; i < rows * depth; ++i) {
    const float deviation = std::exp2(4 * static_cast<float>(i / depth) / static_cast<float>(rows) - 2);
    const float value = deviation * random.normal_pair(static_cast<uint64_t>(i))[0];
    x.values.push_back(narrow ? float{bf16(value)} : value);
  }
  return x;
}

}  // namespace nibble
