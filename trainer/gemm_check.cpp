#include "trainer/gemm_check.hpp"

#include "quant/arithmetic.hpp"
#include "tensor/coded_gemm.hpp"
#include "tensor/convert.hpp"

namespace nibble {
namespace {

// No multiples of any tile; more of them than most processors have cores.
constexpr int64_t rows = 133, cols = 197, inner = 131;

int64_t a_at(int64_t row, int64_t k) { return (3 * row + 5 * k) % 7 - 3; }
int64_t b_at(int64_t k, int64_t col) { return (2 * k + 11 * col) % 5 - 2; }

/// The matrix whose elements `at` gives, or its transpose.
template <class At>
OwnedTensor matrix(Stream& stream, DType type, int64_t r, int64_t c, Transpose transpose, At&& at) {
  const bool turned = transpose == Transpose::yes;
  const OwnedTensor values(DType::f32, turned ? c : r, turned ? r : c);
  for (int64_t i = 0; i < r; ++i)
    for (int64_t j = 0; j < c; ++j)
      *(turned ? values.view().row<float>(j) + i : values.view().row<float>(i) + j) = static_cast<float>(at(i, j));
  const OwnedTensor here(type, values.view().rows, values.view().cols);
  convert(stream.host(), values, here);
  OwnedTensor result(type, values.view().rows, values.view().cols, "check", stream.place());
  copy(stream, here, result);
  stream.wait();
  return result;
}

/// Those of c that are not `sum(i, j)`.
template <class Sum>
int64_t count_wrong(Stream& stream, const Tensor& there, Sum&& sum) {
  const OwnedTensor c(DType::f32, there.rows, there.cols);
  copy(stream, there, c);
  stream.wait();
  int64_t wrong = 0;
  for (int64_t i = 0; i < there.rows; ++i)
    for (int64_t j = 0; j < there.cols; ++j) wrong += c.view().row<float>(i)[j] != static_cast<float>(sum(i, j));
  return wrong;
}

// What products of codes take, and no multiples of tiles of scales either.
constexpr int64_t code_cols = 160, code_inner = 224;

int64_t scale_at(int64_t row, int64_t block) { return 1 + (row / 3 + block) % 2; }

/// Whole numbers, so that products are exact in any order of factors.
int64_t row_scale_at(int64_t row) { return 1 + row % 3; }
int64_t col_scale_at(int64_t col) { return 1 + col % 5; }

template <class At>
OwnedTensor row_of_scales(Stream& stream, int64_t count, At&& at) {
  return matrix(stream, DType::f32, 1, count, Transpose::no, [&](int64_t, int64_t i) { return at(i); });
}

/// Whole numbers of a matrix [rows, depth] in codes.
struct Codes {
  OwnedTensor codes, tiles;
  CodeMatrix matrix;

  template <class At>
  Codes(Stream& stream, CodeFormat format, BlockScales scales, int64_t count, int64_t depth, At&& at) {
    const ElementFormat& element = format == CodeFormat::e4m3   ? formats::e4m3
                                   : format == CodeFormat::e5m2 ? formats::e5m2
                                                                : formats::e2m1;
    const int bits = bits_of(format);
    const OwnedTensor here(DType::u8, count, depth * bits / 8);
    for (int64_t i = 0; i < count; ++i)
      for (int64_t k = 0; k < depth; ++k)
        here.view().row<uint8_t>(i)[k * bits / 8] |=
            static_cast<uint8_t>(encode(static_cast<float>(at(i, k)), element) << k * bits % 8);
    codes = there(stream, here);
    matrix = {.format = format, .block_scales = scales, .codes = codes};
    if (scales == BlockScales::none) return;
    const int64_t blocks = depth / block_length(scales);
    const OwnedTensor own(DType::u8, count, blocks);
    constexpr uint8_t e8m0_one = 127, e4m3_one = 7 << 3, e4m3_octave = 1 << 3;
    for (int64_t i = 0; i < count; ++i)
      for (int64_t block = 0; block < blocks; ++block) {
        const bool two = scale_at(i, block) == 2;
        own.view().row<uint8_t>(i)[block] = static_cast<uint8_t>(
            scales == BlockScales::e8m0 ? e8m0_one + two : e4m3_one + (two ? e4m3_octave : uint8_t{0}));
      }
    tiles = OwnedTensor(DType::u8, 1, scale_tile_bytes(count, blocks), "check", Place::device);
    const OwnedTensor in_rows = there(stream, own);
    tile_scales(stream, in_rows, count, blocks, 0, tiles);
    stream.wait();
    matrix.scales = tiles;
  }

 private:
  static OwnedTensor there(Stream& stream, const Tensor& here) {
    OwnedTensor result(here.dtype, here.rows, here.cols, "check", Place::device);
    copy(stream, here, result);
    stream.wait();
    return result;
  }
};

}  // namespace

int64_t wrong_elements(Stream& stream, DType operands) {
  int64_t wrong = 0;
  for (const Transpose transpose_a : {Transpose::no, Transpose::yes})
    for (const Transpose transpose_b : {Transpose::no, Transpose::yes}) {
      const OwnedTensor a = matrix(stream, operands, rows, inner, transpose_a, a_at);
      const OwnedTensor b = matrix(stream, operands, inner, cols, transpose_b, b_at);
      const OwnedTensor c(DType::f32, rows, cols, "check", stream.place());
      gemm(stream, a, transpose_a, b, transpose_b, c);
      wrong += count_wrong(stream, c, [](int64_t i, int64_t j) {
        int64_t sum = 0;
        for (int64_t k = 0; k < inner; ++k) sum += a_at(i, k) * b_at(k, j);
        return sum;
      });
    }
  return wrong;
}

int64_t wrong_elements_of_codes(Stream& stream) {
  constexpr CodePair pairs[] = {{CodeFormat::e4m3, CodeFormat::e4m3, BlockScales::none},
                                {CodeFormat::e5m2, CodeFormat::e4m3, BlockScales::none},
                                {CodeFormat::e4m3, CodeFormat::e4m3, BlockScales::e8m0},
                                {CodeFormat::e2m1, CodeFormat::e2m1, BlockScales::e4m3}};
  int64_t wrong = 0;
  for (const CodePair& pair : pairs) {
    if (!multiplies_codes(stream, pair, code_cols, code_inner)) continue;
    const Codes a(stream, pair.a, pair.scales, rows, code_inner, a_at),
        b(stream, pair.b, pair.scales, code_cols, code_inner, [](int64_t col, int64_t k) { return b_at(k, col); });
    const OwnedTensor c(DType::f32, rows, code_cols, "check", Place::device);
    coded_gemm(stream, a.matrix, b.matrix, c);
    const int64_t length = pair.scales == BlockScales::none ? 0 : block_length(pair.scales);
    const auto sum_at = [&](int64_t i, int64_t j) {
      int64_t sum = 0;
      for (int64_t k = 0; k < code_inner; ++k)
        sum += a_at(i, k) * b_at(k, j) * (length > 0 ? scale_at(i, k / length) * scale_at(j, k / length) : 1);
      return sum;
    };
    wrong += count_wrong(stream, c, sum_at);
    if (length > 0) continue;
    const OwnedTensor of_rows = row_of_scales(stream, rows, row_scale_at),
                      of_cols = row_of_scales(stream, code_cols, col_scale_at);
    coded_gemm(stream, a.matrix, b.matrix, c, {}, {.rows = of_rows, .cols = of_cols});
    wrong +=
        count_wrong(stream, c, [&](int64_t i, int64_t j) { return sum_at(i, j) * row_scale_at(i) * col_scale_at(j); });
  }
  return wrong;
}

}  // namespace nibble
