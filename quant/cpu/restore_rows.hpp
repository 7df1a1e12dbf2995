// From packed codes and block scales back to values, sixteen neighbours at a time. Part of the tile kernels.
#pragma once

#include "quant/arithmetic.hpp"
#include "quant/quantize.hpp"

namespace nibble {
namespace {

using simd::f32x, simd::lanes, simd::u32x;

/// Sixteen codes, each of `bits` bits at most 8; only the first `count`, 8 or 16, are read.
[[gnu::always_inline]] inline u32x unpack_codes(const uint8_t* codes, int bits, int64_t count) {
  using u64x8 = uint64_t __attribute__((vector_size(64)));
  using u32x8 = uint32_t __attribute__((vector_size(32)));
  const auto width = static_cast<uint64_t>(bits);
  const u64x8 place = u64x8{0, 1, 2, 3, 4, 5, 6, 7} * width;
  u32x8 eight[2]{};
  for (int64_t i = 0; i < count / 8; ++i, codes += bits) {
    uint64_t word = 0;
    if (bits == 8) std::memcpy(&word, codes, 8);
    else if (bits == 4) std::memcpy(&word, codes, 4);
    else std::memcpy(&word, codes, static_cast<size_t>(bits));
    eight[i] = __builtin_convertvector((u64x8{} + word) >> place & ((uint64_t{1} << width) - 1), u32x8);
  }
  return __builtin_shufflevector(eight[0], eight[1], 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

[[gnu::always_inline]] inline float block_scale(ScaleFormat format, uint32_t code) {
  if (format == ScaleFormat::e8m0) return e8m0_value<float>(code);
  const uint32_t without_flag = code & 0x7fu, not_a_number = 0x7fu;
  return without_flag == not_a_number ? __builtin_nanf("") : decode<float>(without_flag, formats::e4m3);
}

template <class T>
void restore_row(const Quantizer& q, const QuantizedParts& parts, const Tensor& values, int64_t i) {
  const ElementFormat format = *q.element;
  const uint8_t *codes = parts.codes.row<uint8_t>(i), *scales = q.blocks() ? parts.scales.row<uint8_t>(i) : nullptr;
  const int64_t group = scales ? q.group : values.cols;
  T* const to = values.row<T>(i);
  for (int64_t start = 0; start < values.cols; start += group) {
    const uint32_t code = scales ? scales[start / group] : 0;
    const float scale = scales ? block_scale(q.scale, code) : 1;
    const bool shifted = q.choice == BlockChoice::shifted && (code & 0x80u) != 0;
    const int64_t end = std::min(start + group, values.cols);
    for (int64_t j = start; j < end; j += lanes) {
      const int64_t count = std::min(lanes, end - j);
      const f32x element = decode<f32x>(unpack_codes(codes + j / 8 * format.bits(), format.bits(), count), format);
      simd::store_n(to + j, (shifted ? -(element + 0.25f) : element) * scale, count);
    }
  }
}

void restore_rows(const Quantizer& quantizer, const QuantizedParts& parts, const Tensor& values, int64_t begin,
                  int64_t end) {
  for (int64_t i = begin; i < end; ++i)
    if (values.dtype == DType::bf16) restore_row<bf16>(quantizer, parts, values, i);
    else restore_row<float>(quantizer, parts, values, i);
}

}  // namespace
}  // namespace nibble
