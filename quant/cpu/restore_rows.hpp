// From packed codes and block scales back to values, sixteen neighbours at a time. Part of the tile kernels.
#pragma once

#include "quant/block_quantizer.hpp"
#include "quant/quantize.hpp"
#include "tensor/cpu/transpose.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

using simd::f32x, simd::lanes, simd::u32x;

/// Sixteen codes, each of `bits` bits at most 8; only the first `count`, 8 or 16, are read.
[[gnu::always_inline]] inline u32x unpack_codes(const uint8_t* codes, int bits, int64_t count) {
  if (bits == 8) {
    u8x bytes{};
    if (count == lanes) std::memcpy(&bytes, codes, lanes);  // lengths that the compiler knows are no calls
    else std::memcpy(&bytes, codes, lanes / 2);
    return __builtin_convertvector(bytes, u32x);
  }
  if (bits == 4) {
    uint32_t low = 0, high = 0;
    std::memcpy(&low, codes, 4);
    if (count == lanes) std::memcpy(&high, codes + 4, 4);
    const simd::i32x second = {0, 0, 0, 0, 0, 0, 0, 0, -1, -1, -1, -1, -1, -1, -1, -1};
    const u32x words = second ? u32x{} + high : u32x{} + low;
    return words >> u32x{0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28} & 15u;
  }
  using u64x8 = uint64_t __attribute__((vector_size(64)));
  using u32x8 = uint32_t __attribute__((vector_size(32)));
  const auto width = static_cast<uint64_t>(bits);
  const u64x8 place = u64x8{0, 1, 2, 3, 4, 5, 6, 7} * width;
  u32x8 eight[2]{};
  for (int64_t i = 0; i < count / 8; ++i, codes += bits) {
    uint64_t word = 0;
    std::memcpy(&word, codes, static_cast<size_t>(bits));
    eight[i] = __builtin_convertvector((u64x8{} + word) >> place & ((uint64_t{1} << width) - 1), u32x8);
  }
  return __builtin_shufflevector(eight[0], eight[1], 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

/// What codes stand for. Elements of at most four bits and the scales of blocks are looked up.
class CodeValues {
 public:
  explicit CodeValues(const Quantizer& q) : q_(q), format_(*q.element) {
    float few[lanes]{};
    for (int code = 0; looks_up() && code < format_.codes(); ++code) few[code] = format_.value(code);
    elements_ = simd::load(few);
    for (uint32_t code = 0; code < std::size(scales_) && q.blocks(); ++code)
      scales_[code] = block_scale_of(q.scale, code);
  }

  const ElementFormat& format() const { return format_; }

  /// `count` elements of row i from element j on, all of one block.
  [[gnu::always_inline]] f32x restored(const QuantizedParts& parts, int64_t i, int64_t j, int64_t count) const {
    const int bits = format_.bits();
    const u32x codes = unpack_codes(parts.codes.row<uint8_t>(i) + j / 8 * bits, bits, count);
    const f32x element = looks_up() ? __builtin_shuffle(elements_, codes) : decode<f32x>(codes, format_);
    if (!q_.blocks()) return element;
    const uint8_t scale = parts.scales.row<uint8_t>(i)[j / q_.group];
    const bool shifted = q_.choice == BlockChoice::shifted && (scale & 0x80u) != 0;
    return (shifted ? -(element + 0.25f) : element) * scales_[scale];
  }

 private:
  bool looks_up() const { return format_.bits() <= 4; }

  const Quantizer& q_;
  const ElementFormat format_;  // a copy: nothing that is stored can be part of it
  f32x elements_;
  float scales_[256]{};
};

/// work(j, count) for pieces of at most sixteen elements that lie in one block.
template <class Work>
void for_each_piece(const Quantizer& q, int64_t depth, Work&& work) {
  const int64_t group = q.blocks() ? q.group : depth;
  for (int64_t start = 0; start < depth; start += group) {
    const int64_t end = std::min(start + group, depth);
    for (int64_t j = start; j < end; j += lanes) work(j, std::min(lanes, end - j));
  }
}

template <class T>
void store_restored(T* to, f32x values, int64_t count, const ElementFormat& format) {
  if constexpr (std::is_same_v<T, int8_t>) {
    using i8x = int8_t __attribute__((vector_size(16)));
    const auto codes = __builtin_convertvector(__builtin_convertvector(values - format.offset, simd::i32x), i8x);
    std::memcpy(to, &codes, static_cast<size_t>(count));
  } else {
    simd::store_n(to, values, count);
  }
}

template <class T>
void restore_rows(const Quantizer& q, const QuantizedParts& parts, Axis axis, const Tensor& values, int64_t begin,
                  int64_t end) {
  const CodeValues of(q);
  if (axis == Axis::cols) {
    for (int64_t i = begin; i < end; ++i)
      for_each_piece(q, values.cols, [&](int64_t j, int64_t count) {
        store_restored(values.row<T>(i) + j, of.restored(parts, i, j, count), count, of.format());
      });
    return;
  }
  for (int64_t i = begin; i < end; i += lanes) {
    const int64_t width = std::min(lanes, end - i);
    for_each_piece(q, values.rows, [&](int64_t j, int64_t count) {
      f32x square[lanes]{};
      for (int64_t lane = 0; lane < width; ++lane) square[lane] = of.restored(parts, i + lane, j, count);
      simd::transpose(square);
      for (int64_t d = 0; d < count; ++d) store_restored(values.row<T>(j + d) + i, square[d], width, of.format());
    });
  }
}

void restore_rows(const Quantizer& quantizer, const QuantizedParts& parts, Axis axis, const Tensor& values,
                  int64_t begin, int64_t end) {
  if (values.dtype == DType::bf16) restore_rows<bf16>(quantizer, parts, axis, values, begin, end);
  else if (values.dtype == DType::i8) restore_rows<int8_t>(quantizer, parts, axis, values, begin, end);
  else restore_rows<float>(quantizer, parts, axis, values, begin, end);
}

}  // namespace
}  // namespace nibble
