#include "trainer/gemm_check.hpp"

#include "tensor/convert.hpp"
#include "tensor/gemm.hpp"

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

}  // namespace

int64_t wrong_elements(Stream& stream, DType operands) {
  int64_t wrong = 0;
  for (const Transpose transpose_a : {Transpose::no, Transpose::yes})
    for (const Transpose transpose_b : {Transpose::no, Transpose::yes}) {
      const OwnedTensor a = matrix(stream, operands, rows, inner, transpose_a, a_at);
      const OwnedTensor b = matrix(stream, operands, inner, cols, transpose_b, b_at);
      const OwnedTensor there(DType::f32, rows, cols, "check", stream.place()), c(DType::f32, rows, cols);
      gemm(stream, a, transpose_a, b, transpose_b, there);
      copy(stream, there, c);
      stream.wait();
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < cols; ++j) {
          int64_t sum = 0;
          for (int64_t k = 0; k < inner; ++k) sum += a_at(i, k) * b_at(k, j);
          wrong += c.view().row<float>(i)[j] != static_cast<float>(sum);
        }
    }
  return wrong;
}

}  // namespace nibble
