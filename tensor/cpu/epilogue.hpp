// From the sums of a product to C: scaled, the addend added, rounded, in that order.
//
// Compiled into its caller for the caller's instruction set. Not for: products without scaling, whose addend the sums
// start with.
#pragma once

#include "tensor/gemm.hpp"
#include "tensor/simd.hpp"

namespace nibble {

/// What happens to the sums of C, or of a part of C.
struct Epilogue {
  Scaling scaling;
  Tensor addend;  ///< f32, C itself among them; empty: zeros
  /// f64 [1, M] and [1, N], where codes in i8 have offsets: what these add to the sums of each row and column. Sums
  /// with them are below 2^35 and multiples of 1/4 for offsets that are multiples of 1/2: exact.
  Tensor row_terms{}, col_terms{};

  Epilogue part(int64_t row, int64_t rows, int64_t col, int64_t cols) const {
    const auto of_rows = [&](const Tensor& x) { return x ? x.slice_cols(row, rows) : Tensor(); };
    const auto of_cols = [&](const Tensor& x) { return x ? x.slice_cols(col, cols) : Tensor(); };
    Epilogue result = *this;
    result.scaling.rows = of_rows(scaling.rows);
    result.scaling.cols = of_cols(scaling.cols);
    result.addend = addend ? addend.slice_rows(row, rows).slice_cols(col, cols) : Tensor();
    result.row_terms = of_rows(row_terms);
    result.col_terms = of_cols(col_terms);
    return result;
  }
};

namespace detail {

/// The sums of one row from column j on, without those of other columns that `count` < 16 leaves out.
[[gnu::always_inline]] inline simd::f32x sums_of(const float* sums, const Epilogue&, int64_t, int64_t j,
                                                 int64_t count) {
  return simd::load_n(sums + j, count);
}
[[gnu::always_inline]] inline simd::f32x sums_of(const int32_t* sums, const Epilogue& epilogue, int64_t i, int64_t j,
                                                 int64_t count) {
  simd::i32x whole{};
  std::memcpy(&whole, sums + j, static_cast<size_t>(count) * sizeof(int32_t));
  if (!epilogue.col_terms) return __builtin_convertvector(whole, simd::f32x);
  simd::f64x terms{};
  std::memcpy(&terms, epilogue.col_terms.as<double>() + j, static_cast<size_t>(count) * sizeof(double));
  return __builtin_convertvector(
      __builtin_convertvector(whole, simd::f64x) + (terms + epilogue.row_terms.as<double>()[i]), simd::f32x);
}

template <class Sum, class T>
[[gnu::always_inline]] inline void finish(const Tensor& sums, const Epilogue& epilogue, const Tensor& c) {
  const Scaling& scaling = epilogue.scaling;
  const float factor = scaling.factor;
  for (int64_t i = 0; i < c.rows; ++i) {
    const float row = scaling.rows ? scaling.rows.as<float>()[i] : 1.0f;
    simd::for_each_group(c.cols, [&](int64_t j, int64_t count) {
      simd::f32x x = sums_of(sums.row<Sum>(i), epilogue, i, j, count) * factor * row;
      if (scaling.cols) x = x * simd::load_n(scaling.cols.as<float>() + j, count);
      if (epilogue.addend) x = x + simd::load_n(epilogue.addend.row<float>(i) + j, count);
      simd::store_n(c.row<T>(i) + j, x, count);
    });
  }
}

}  // namespace detail

/// c of sums (f32 or i32), which may have c's memory: (((sums + terms) * factor) * rows) * cols + addend, each
/// operation rounded in f32.
[[gnu::always_inline]] inline void finish(const Tensor& sums, const Epilogue& epilogue, const Tensor& c) {
  if (sums.dtype == DType::i32 && c.dtype == DType::f32) detail::finish<int32_t, float>(sums, epilogue, c);
  else if (sums.dtype == DType::i32) detail::finish<int32_t, bf16>(sums, epilogue, c);
  else if (c.dtype == DType::f32) detail::finish<float, float>(sums, epilogue, c);
  else detail::finish<float, bf16>(sums, epilogue, c);
}

}  // namespace nibble
