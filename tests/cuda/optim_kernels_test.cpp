// Kernels of optimizers give the same bits on a device as on the host: those that steps do not show in every shape.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "optim/gradient_norm.hpp"
#include "optim/kernels.hpp"
#include "optim/tile_products.hpp"
#include "tests/cuda/on_device.hpp"

namespace nibble {
namespace {

using testing::drawn, testing::on_device, testing::on_host, testing::same_bits;

constexpr std::pair<int64_t, int64_t> shapes[] = {{1, 1}, {3, 7}, {31, 33}, {70, 264}, {1, 10007}, {700, 3}, {4, 1025}};
constexpr DType types[] = {DType::f32, DType::bf16};

/// A matrix whose rows are padded and begin off any boundary, on one side.
class PaddedRows {
 public:
  PaddedRows(DType type, int64_t rows, int64_t cols, Place place)
      : whole_(type, rows, cols + 9, "test", place), view_(whole_.view().slice_cols(3, cols)) {}
  const Tensor& view() const { return view_; }

 private:
  OwnedTensor whole_;
  Tensor view_;
};

class OptimKernelsOnDevice : public ::testing::Test {
 protected:
  OwnedTensor back(const Tensor& there) { return on_host(device, there); }
  bool same(const Tensor& there, const Tensor& here) {
    const OwnedTensor packed(here.dtype, here.rows, here.cols);
    copy(host, here, packed);
    return same_bits(back(there), packed);
  }

  Stream host{2}, device{2, Place::device};
};

TEST_F(OptimKernelsOnDevice, ScaleInto) {
  for (const auto& [rows, cols] : shapes)
    for (const DType from : types)
      for (const DType to : types)
        for (const bool transpose : {false, true}) {
          const OwnedTensor x = drawn(from, rows, cols, 1), x_there = on_device(device, x);
          const int64_t to_rows = transpose ? cols : rows, to_cols = transpose ? rows : cols;
          const PaddedRows here(to, to_rows, to_cols, Place::host), there(to, to_rows, to_cols, Place::device);
          scale_into(host, x, 0.37f, transpose, here.view());
          scale_into(device, x_there, 0.37f, transpose, there.view());
          EXPECT_TRUE(same(there.view(), here.view())) << rows << " x " << cols << " " << transpose;
          normalize_into(host, x, {1.02, 1e-6}, transpose, here.view());
          normalize_into(device, x_there, {1.02, 1e-6}, transpose, there.view());
          EXPECT_TRUE(same(there.view(), here.view())) << rows << " x " << cols << " " << transpose;
        }
}

TEST_F(OptimKernelsOnDevice, ConvertAndScaleAndAddScaled) {
  for (const auto& [rows, cols] : shapes)
    for (const DType type : types) {
      const OwnedTensor x = drawn(DType::f32, rows, cols, 1), y = drawn(DType::f32, rows, cols, 2);
      const OwnedTensor x_there = on_device(device, x), y_there = on_device(device, y);
      const PaddedRows here(type, rows, cols, Place::host), there(type, rows, cols, Place::device);
      add_scaled(host, x, y, -1.7f, here.view());
      add_scaled(device, x_there, y_there, -1.7f, there.view());
      EXPECT_TRUE(same(there.view(), here.view())) << rows << " x " << cols;
      convert_and_scale(host, x, here.view(), 3.44f);
      convert_and_scale(device, x_there, there.view(), 3.44f);
      EXPECT_TRUE(same(there.view(), here.view())) << rows << " x " << cols;
      EXPECT_TRUE(same(x_there, x)) << rows << " x " << cols;
    }
}

TEST_F(OptimKernelsOnDevice, ScaleAndNormalizeRows) {
  for (const auto& [rows, cols] : shapes)
    for (const DType type : types) {
      const OwnedTensor x = drawn(type, rows, cols, 1), x_there = on_device(device, x),
                        factors = drawn(DType::f32, 1, rows, 2), moments(DType::f32, 1, rows),
                        moments_there(DType::f32, 1, rows, "test", Place::device);
      const std::span<const float> of_rows(factors.view().as<float>(), static_cast<size_t>(rows));
      scale_rows(host, x, of_rows);
      scale_rows(device, x_there, of_rows);
      EXPECT_TRUE(same(x_there, x)) << rows << " x " << cols;
      for (int step = 0; step < 2; ++step) {
        normalize_rows(host, x, moments, 0.9);
        normalize_rows(device, x_there, moments_there, 0.9);
      }
      EXPECT_TRUE(same(x_there, x)) << rows << " x " << cols;
      EXPECT_TRUE(same(moments_there, moments)) << rows << " x " << cols;
    }
}

TEST_F(OptimKernelsOnDevice, RowsOfZerosStay) {
  const OwnedTensor x(DType::f32, 5, 20, "test", Place::device), moments(DType::f32, 1, 5, "test", Place::device);
  normalize_rows(device, x, moments, 0.9);
  EXPECT_TRUE(same(x, OwnedTensor(DType::f32, 5, 20)));
}

TEST_F(OptimKernelsOnDevice, SquareSums) {
  std::vector<OwnedTensor> memory;
  std::vector<Tensor> here, there;
  for (const auto& [rows, cols] : shapes)
    for (const DType type : types) {
      const Tensor x = memory.emplace_back(drawn(type, rows, cols, 1));
      here.push_back(x);
      there.push_back(memory.emplace_back(on_device(device, x)));
    }
  EXPECT_EQ(gradient_square_sums(device, there), gradient_square_sums(host, here));
  // Blocks of any size, in any order.
  std::vector<TensorBlock> blocks = row_blocks(here[6]);
  for (TensorBlock& block : blocks) block.tensor = 6;
  for (const int64_t count : {5, 17, 17, 17, 3, 1}) blocks.push_back({9, 100 + count, count});
  for (int64_t i = 0; i < 40; ++i) blocks.push_back({i % 3, 0, 1});
  for (int64_t i = 0; i < 4; ++i) blocks.push_back({8, 7 + 33 * i, i == 2 ? 20 : 33});
  std::vector<double> expected(blocks.size()), seen(blocks.size());
  gradient_square_sums(host, here, blocks, expected);
  gradient_square_sums(device, there, blocks, seen);
  EXPECT_EQ(seen, expected);
  gradient_square_sums(device, there, {}, {});
}

TEST_F(OptimKernelsOnDevice, Reorder) {
  for (const auto& [rows, cols] : shapes)
    for (const Reordered which : {Reordered::rows, Reordered::columns}) {
      const OwnedTensor x = drawn(DType::f32, rows, cols, 1), x_there = on_device(device, x);
      std::vector<int64_t> order(static_cast<size_t>(which == Reordered::rows ? rows : cols));
      std::iota(order.begin(), order.end(), int64_t{0});
      std::shuffle(order.begin(), order.end(), std::mt19937(5));
      const PaddedRows here(DType::f32, rows, cols, Place::host), there(DType::f32, rows, cols, Place::device);
      reorder(host, x, which, order, here.view());
      reorder(device, x_there, which, order, there.view());
      EXPECT_TRUE(same(there.view(), here.view())) << rows << " x " << cols;
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < cols; ++j) {
          const int64_t row = which == Reordered::rows ? order[static_cast<size_t>(i)] : i,
                        col = which == Reordered::columns ? order[static_cast<size_t>(j)] : j;
          ASSERT_EQ(here.view().row<float>(i)[j], x.view().row<float>(row)[col]) << i << "," << j;
        }
    }
}

TEST_F(OptimKernelsOnDevice, AddToDiagonal) {
  const OwnedTensor x = drawn(DType::f32, 37, 37, 1), there = on_device(device, x);
  add_to_diagonal(host, x, -1);
  add_to_diagonal(device, there, -1);
  EXPECT_TRUE(same(there, x));
}

TEST_F(OptimKernelsOnDevice, AdamDirection) {
  const AdamWFactors factors{.gradient_scale = 1,
                             .decay = 1,
                             .one_minus_beta1 = 0.1f,
                             .beta2 = 0.95f,
                             .one_minus_beta2 = 0.05f,
                             .step_size = 0.01f,
                             .sqrt_bias_correction2 = 0.7f,
                             .epsilon = 1e-8f,
                             .step = 2};
  for (const auto& [rows, cols] : shapes) {
    const OwnedTensor gradient = drawn(DType::f32, rows, cols, 1), first = drawn(DType::f32, rows, cols, 2),
                      second = drawn(DType::f32, rows, cols, 3);
    for (int64_t i = 0; i < second.view().size(); ++i) second.view().as<float>()[i] *= second.view().as<float>()[i];
    const OwnedTensor gradient_there = on_device(device, gradient), first_there = on_device(device, first),
                      second_there = on_device(device, second);
    adam_direction(host, gradient, first, second, gradient, factors);
    adam_direction(device, gradient_there, first_there, second_there, gradient_there, factors);
    EXPECT_TRUE(same(gradient_there, gradient) && same(second_there, second)) << rows << " x " << cols;
  }
}

class MomentsOnDevice : public OptimKernelsOnDevice {
 protected:
  /// The same moment on both sides, zero.
  std::pair<Moment, Moment> moments(MomentKind kind, MomentPrecision precision, int64_t size) {
    const ParameterInfo info{.name = "x", .rows = 1, .cols = size};
    Moment both[2];
    for (const Place place : {Place::host, Place::device}) {
      const auto take = [&](Arena& arena) {
        OptimizedParameter parameter;
        parameter.info = &info;
        parameter.master = Tensor(DType::f32, nullptr, 1, size);
        parameter.number = 3;
        both[place == Place::device] = take_moment(arena, kind, {.precision = precision, .seed = 9}, parameter);
      };
      memory_.emplace_back("test", take, place);
    }
    return {both[0], both[1]};
  }
  void expect_same(const Moment& there, const Moment& here, const char* what) {
    EXPECT_TRUE(same(there.values, here.values)) << what << " of " << here.values.size();
    if (here.scales) {
      EXPECT_TRUE(same(there.scales, here.scales)) << what << " of " << here.scales.size();
    }
  }

  static constexpr int64_t sizes[] = {1, 4096, 4097, 4500, 20011};

 private:
  std::vector<Arena> memory_;
};

TEST_F(MomentsOnDevice, Momentum) {
  for (const MomentPrecision precision : {MomentPrecision::f32, MomentPrecision::bf16, MomentPrecision::eight_bit})
    for (const MomentKind kind : {MomentKind::matrix_momentum, MomentKind::momentum})
      for (const int64_t size : sizes)
        for (const DType type : types) {
          const auto [here, there] = moments(kind, precision, size);
          for (int64_t step = 1; step <= 3; ++step) {
            const MomentumFactors factors{
                .gradient_scale = 0.5f, .momentum = 0.95f, .nesterov = step > 1, .step = step};
            const OwnedTensor gradient = drawn(DType::f32, 1, size, static_cast<unsigned>(step)), to(type, 1, size),
                              to_there(type, 1, size, "test", Place::device);
            momentum_update(host, gradient, here, to, factors);
            momentum_update(device, on_device(device, gradient), there, to_there, factors);
            EXPECT_TRUE(same(to_there, to)) << size;
          }
          expect_same(there, here, "momentum");
        }
}

TEST_F(MomentsOnDevice, Extrapolation) {
  for (const MomentPrecision precision : {MomentPrecision::f32, MomentPrecision::bf16})
    for (const int64_t size : sizes) {
      const auto [here, there] = moments(MomentKind::last_gradient, precision, size);
      for (int64_t step = 1; step <= 3; ++step) {
        const OwnedTensor gradient = drawn(DType::f32, 1, size, static_cast<unsigned>(step)),
                          gradient_there = on_device(device, gradient);
        const ExtrapolationFactors factors{.gradient_scale = 0.5f, .difference = 0.4f, .step = step};
        extrapolate(host, here, gradient, factors);
        extrapolate(device, there, gradient_there, factors);
        EXPECT_TRUE(same(gradient_there, gradient)) << size;
      }
      expect_same(there, here, "last gradient");
    }
}

// Blocks whose largest values are at the ends of what codes and scales hold.
TEST_F(MomentsOnDevice, ExtremeValues) {
  constexpr int64_t size = 4096;
  const std::vector<float> values = {0.0f, -0.0f, 1e-45f, -1e-38f, 1.0f, -1.0f, 3.4e38f, -3.4028235e38f, 1e-7f, 0.5f};
  for (const MomentPrecision precision : {MomentPrecision::bf16, MomentPrecision::eight_bit})
    for (const MomentKind kind :
         {MomentKind::first, MomentKind::second, MomentKind::slow, MomentKind::matrix_momentum}) {
      const auto [here, there] = moments(kind, precision, size);
      const OwnedTensor gradient(DType::f32, 1, size);
      for (size_t i = 0; i < static_cast<size_t>(size); ++i) {
        const float largest = values[i / 64 % values.size()], value = largest * static_cast<float>(i % 7) / 7;
        gradient.view().as<float>()[i] = kind == MomentKind::second ? std::abs(value) : value;
      }
      const OwnedTensor to(DType::f32, 1, size), to_there(DType::f32, 1, size, "test", Place::device);
      for (int64_t step = 1; step <= 2; ++step) {
        const MomentumFactors factors{.gradient_scale = 1, .momentum = 0.5f, .nesterov = false, .step = step};
        momentum_update(host, gradient, here, to, factors);
        momentum_update(device, on_device(device, gradient), there, to_there, factors);
      }
      EXPECT_TRUE(same(to_there, to));
      expect_same(there, here, "extreme values");
    }
}

TEST_F(OptimKernelsOnDevice, ProductsGoToTheDevice) {
  const OwnedTensor a = drawn(DType::bf16, 40, 300, 1), b = drawn(DType::bf16, 300, 24, 2), square(DType::f32, 40, 40),
                    square_there(DType::f32, 40, 40, "test", Place::device), c = drawn(DType::f32, 40, 24, 3);
  const OwnedTensor a_there = on_device(device, a), c_there = on_device(device, c);
  square_product(host, a, Transpose::no, square);
  square_product(device, a_there, Transpose::no, square_there);
  tiled_product(host, a, Transpose::no, b, Transpose::no, c, c);
  tiled_product(device, a_there, Transpose::no, on_device(device, b), Transpose::no, c_there, c_there);
  const OwnedTensor square_seen = back(square_there), c_seen = back(c_there);
  // Of 300 products of two normal numbers, added in f32.
  for (int64_t i = 0; i < 1600; ++i) ASSERT_NEAR(square_seen.view().as<float>()[i], square.view().as<float>()[i], 1e-3);
  for (int64_t i = 0; i < 960; ++i) ASSERT_NEAR(c_seen.view().as<float>()[i], c.view().as<float>()[i], 1e-3);
}

}  // namespace
}  // namespace nibble
