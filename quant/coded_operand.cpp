#include "quant/coded_operand.hpp"

#include <cassert>
#include <cmath>

#include "quant/arithmetic.hpp"

namespace nibble {
namespace {

/// In E4M3, what each code of a format stands for; nothing where E4M3 does not hold it.
std::optional<std::vector<uint8_t>> in_e4m3(const ElementFormat& from) {
  constexpr ElementFormat to = formats::e4m3;
  std::vector<uint8_t> meanings;
  for (int code = 0; code < from.codes(); ++code) {
    const float value = from.value(code);
    uint32_t meaning = static_cast<uint32_t>(to.first_nan_code);
    if (std::isfinite(value)) {
      if (std::abs(value) > to.max) return {};
      meaning = encode(value, to);
      if (to.value(static_cast<int>(meaning)) != value) return {};
    }
    meanings.push_back(static_cast<uint8_t>(meaning));
  }
  return meanings;
}

}  // namespace

std::optional<CodedAs> coded_as(const Quantizer& q) {
  if (!q.packable() || q.choice == BlockChoice::shifted) return {};
  const ElementFormat& element = *q.element;
  if (q.blocks() && q.scale == ScaleFormat::e4m3) {
    if (element != formats::e2m1 || q.group != block_length(BlockScales::e4m3)) return {};
    return CodedAs{CodeFormat::e2m1, BlockScales::e4m3};
  }
  if (q.blocks() && q.group != block_length(BlockScales::e8m0)) return {};
  CodedAs as{.scales = q.blocks() ? BlockScales::e8m0 : BlockScales::none};
  as.format = element == formats::e5m2 ? CodeFormat::e5m2 : CodeFormat::e4m3;
  if (element == formats::e5m2 || element == formats::e4m3) return as;
  const std::optional<std::vector<uint8_t>> meanings = in_e4m3(element);
  if (!meanings) return {};
  as.meanings = *meanings;
  return as;
}

CodeMatrix code_matrix(Stream& stream, const Operand& operand, const Quantizer& quantizer, const CodedAs& as, Axis axis,
                       LinearScratch& scratch) {
  const QuantizedParts& parts = operand.parts;
  const bool turns = operand.axis != axis;
  assert(!turns || !quantizer.blocks() || quantizer.extent == Extent::square);
  const int from_bits = quantizer.element->bits(), bits = bits_of(as.format);
  const int64_t of_rows = parts.codes.rows, of_cols = parts.codes.cols * 8 / from_bits,
                rows = turns ? of_cols : of_rows, depth = turns ? of_rows : of_cols;
  CodeMatrix matrix{.format = as.format, .block_scales = as.scales, .codes = parts.codes};
  constexpr int64_t piece = 16;  // what products read at once
  const bool good_there = !turns && from_bits == bits && as.meanings.empty() && parts.codes.stride % piece == 0 &&
                          reinterpret_cast<uintptr_t>(parts.codes.data) % piece == 0;
  if (!good_there) {
    matrix.codes = scratch.take(DType::u8, rows, depth * bits / 8);
    if (!scratch.counts())
      lay_out_codes(stream, {.from = parts.codes,
                             .from_bits = from_bits,
                             .to = matrix.codes,
                             .to_bits = bits,
                             .transposed = turns,
                             .meanings = as.meanings});
  }
  if (as.scales == BlockScales::none) return matrix;
  const int64_t blocks = depth / quantizer.group;
  matrix.scales = scratch.take(DType::u8, 1, scale_tile_bytes(rows, blocks));
  if (!scratch.counts()) tile_scales(stream, parts.scales, rows, blocks, turns ? quantizer.group : 0, matrix.scales);
  return matrix;
}

}  // namespace nibble
