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

  Epilogue part(int64_t row, int64_t rows, int64_t col, int64_t cols) const {
    return {.scaling = {.factor = scaling.factor,
                        .rows = scaling.rows ? scaling.rows.slice_cols(row, rows) : Tensor(),
                        .cols = scaling.cols ? scaling.cols.slice_cols(col, cols) : Tensor()},
            .addend = addend ? addend.slice_rows(row, rows).slice_cols(col, cols) : Tensor()};
  }
};

/// c = (((sums * factor) * rows) * cols) + addend, each operation rounded in f32. `sums` (f32) may be c.
template <class T>
[[gnu::always_inline]] inline void finish(const Tensor& sums, const Epilogue& epilogue, const Tensor& c) {
  const auto& [factor, rows, cols] = epilogue.scaling;
  for (int64_t i = 0; i < c.rows; ++i) {
    const float row = rows ? rows.as<float>()[i] : 1.0f;
    simd::for_each_group(c.cols, [&](int64_t j, int64_t count) {
      simd::f32x x = simd::load_n(sums.row<float>(i) + j, count) * factor * row;
      if (cols) x = x * simd::load_n(cols.as<float>() + j, count);
      if (epilogue.addend) x = x + simd::load_n(epilogue.addend.row<float>(i) + j, count);
      simd::store_n(c.row<T>(i) + j, x, count);
    });
  }
}

[[gnu::always_inline]] inline void finish(const Tensor& sums, const Epilogue& epilogue, const Tensor& c) {
  if (c.dtype == DType::f32) finish<float>(sums, epilogue, c);
  else finish<bf16>(sums, epilogue, c);
}

}  // namespace nibble
