// Eigen's matrices in double, for the tests of optimizers that decompose them.
#pragma once

#include <gtest/gtest.h>

#include <Eigen/Dense>
#include <cstdint>
#include <vector>

#include "tests/optim/matrices.hpp"
#include "tests/optim/parameters.hpp"

namespace nibble::testing {

using Doubles = Eigen::MatrixXd;

inline Doubles doubles(const Tensor& tensor) {
  Doubles matrix(tensor.rows, tensor.cols);
  for (int64_t i = 0; i < tensor.rows; ++i)
    for (int64_t j = 0; j < tensor.cols; ++j) matrix(i, j) = tensor.row<float>(i)[j];
  return matrix;
}

inline Doubles doubles(const Matrix& from) {
  Doubles matrix(from.rows, from.cols);
  for (int64_t i = 0; i < from.rows; ++i)
    for (int64_t j = 0; j < from.cols; ++j) matrix(i, j) = from.at(i, j);
  return matrix;
}

inline void put(const Doubles& from, const Tensor& to) {
  for (int64_t i = 0; i < to.rows; ++i)
    for (int64_t j = 0; j < to.cols; ++j) to.row<float>(i)[j] = static_cast<float>(from(i, j));
}

/// Gradients in [-0.5, 0.5), or, where `rank` is positive, in a space of that many dimensions from both sides, which
/// stays the same.
inline void draw_gradient(const OptimizedParameter& parameter, int64_t rank, Draws& draw) {
  fill(parameter.gradient, draw);
  if (rank == 0) return;
  const Doubles inner = doubles(parameter.gradient).topLeftCorner(rank, rank);
  const Doubles left = doubles(orthonormal_rows(rank, parameter.info->rows, 31)),
                right = doubles(orthonormal_rows(rank, parameter.info->cols, 32));
  put(left.transpose() * inner * right, parameter.gradient);
}

/// The largest difference of an element, and the largest change of a weight since `before`, to hold it against.
inline double error_of(const Doubles& seen, const Doubles& expected, const Doubles& before) {
  return (seen - expected).cwiseAbs().maxCoeff() / (expected - before).cwiseAbs().maxCoeff();
}

/// The change of a 16 x 16 weight by six steps on gradients that `turn` has changed.
template <class MatrixOptimizer, class Settings, class Turn>
Doubles change_by(const Settings& settings, Turn&& turn) {
  Stream stream(1);
  const Parameters parameters({{16, 16, false}}, DType::f32);
  MatrixOptimizer optimizer(parameters.list, settings);
  Draws draw(9);
  for (int64_t step = 1; step <= 6; ++step) {
    fill(parameters.list[0].gradient, draw);
    put(turn(doubles(parameters.list[0].gradient)), parameters.list[0].gradient);
    optimizer.step(stream, {.step = step, .learning_rate = 1e-2});
  }
  return doubles(parameters.list[0].master);
}

/// A rotation of the gradients turns the change, and transposed gradients transpose it.
template <class MatrixOptimizer, class Settings>
void expect_to_turn_with_gradients(const Settings& settings) {
  const auto change = [&](auto&& turn) { return change_by<MatrixOptimizer>(settings, turn); };
  const Doubles rotation = doubles(orthonormal_rows(16, 16, 5));
  const Doubles plain = change([](const Doubles& g) { return g; });
  EXPECT_LT((change([&](const Doubles& g) { return Doubles(rotation * g); }) - rotation * plain).norm(),
            1e-4 * plain.norm());
  EXPECT_LT((change([](const Doubles& g) { return Doubles(g.transpose()); }) - plain.transpose()).norm(),
            1e-4 * plain.norm());
}

template <class MatrixOptimizer, class Settings>
void expect_no_scale_of_gradients(const Settings& settings) {
  const auto change = [&](double scale) {
    return change_by<MatrixOptimizer>(settings, [scale](const Doubles& g) { return Doubles(scale * g); });
  };
  const Doubles plain = change(1);
  for (const double scale : {1e-6, 1e3}) EXPECT_LT((change(scale) - plain).norm(), 1e-4 * plain.norm()) << scale;
}

template <class MatrixOptimizer, class Settings>
void expect_same_bits_with_any_threads(const Settings& settings) {
  const auto bits = [&](int threads) {
    Stream stream(threads);
    const Parameters parameters({{300, 70, true}, {20, 520, true}}, DType::bf16);
    Draws draw(3);
    MatrixOptimizer optimizer(parameters.list, settings);
    for (int64_t step = 1; step <= 3; ++step) {
      for (const OptimizedParameter& parameter : parameters.list) fill(parameter.gradient, draw);
      optimizer.step(stream, {.step = step, .learning_rate = 1e-2});
    }
    return bits_of(optimizer, parameters);
  };
  const std::vector<uint32_t> one = bits(1);
  for (const int threads : {2, 3, 8}) EXPECT_EQ(bits(threads), one);
}

}  // namespace nibble::testing
