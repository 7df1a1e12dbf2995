// Eigenvectors and orthonormal rows as their definitions say, also where they are not unique.
#include "optim/decompositions.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tensor/error.hpp"
#include "tests/optim/double_matrices.hpp"

namespace nibble {
namespace {

using testing::Doubles;
using testing::doubles;

double distance_from_identity(const Doubles& rows) {
  return (rows * rows.transpose() - Doubles::Identity(rows.rows(), rows.rows())).cwiseAbs().maxCoeff();
}

TEST(EigenDecomposition, GivesBackTheMatrix) {
  for (const int64_t n : {1, 2, 7, 60, 130})
    for (const int64_t rank : {int64_t{0}, (n + 1) / 2, n}) {
      Doubles matrix = Doubles::Zero(n, n);
      const Doubles directions = doubles(testing::orthonormal_rows(n, n, 3));
      for (int64_t k = 0; k < rank; ++k) matrix += std::pow(0.9, k) * directions.row(k).transpose() * directions.row(k);
      const OwnedTensor symmetric(DType::f32, n, n), vectors(DType::f32, n, n);
      testing::put(matrix, symmetric);
      const std::vector<double> values = eigen_decomposition(symmetric, vectors, "");
      for (int64_t k = 0; k < n; ++k)
        EXPECT_NEAR(values[static_cast<size_t>(k)], k < rank ? std::pow(0.9, k) : 0, 1e-6) << n << "," << k;
      EXPECT_LT(distance_from_identity(doubles(vectors)), 1e-6);
      const Eigen::VectorXd diagonal = Eigen::Map<const Eigen::VectorXd>(values.data(), n);
      EXPECT_LT((doubles(vectors).transpose() * diagonal.asDiagonal() * doubles(vectors) - matrix).norm(), 2e-6);
    }
}

// Rows stay in the span of those up to them; dependent ones and zeros are replaced.
TEST(OrthonormalizeRows, KeepsTheSpans) {
  for (const int64_t n : {1, 5, 60, 130}) {
    const OwnedTensor rows(DType::f32, n, n), scratch(DType::f32, n, n);
    Doubles given = doubles(testing::Matrix::gaussian(n, n, 4));
    if (n > 4) {
      given.row(3) = given.row(0) - 2 * given.row(1);
      given.row(4).setZero();
    }
    testing::put(given, rows);
    orthonormalize_rows(rows, scratch, "");
    const Doubles made = doubles(rows);
    EXPECT_LT(distance_from_identity(made), 3e-6) << n;
    for (int64_t k = 0; k < n; ++k) {
      const Doubles left = given.row(k) - given.row(k) * made.topRows(k + 1).transpose() * made.topRows(k + 1);
      EXPECT_LT(left.norm(), 1e-4) << n << "," << k;
    }
  }
}

TEST(Decompositions, WhatIsNotFiniteIsRefused) {
  for (const float poison : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const OwnedTensor matrix(DType::f32, 3, 3), other(DType::f32, 3, 3);
    matrix.view().as<float>()[4] = poison;
    for (const bool symmetric : {true, false}) try {
        if (symmetric) eigen_decomposition(matrix, other, "a factor");
        else orthonormalize_rows(matrix, other, "a factor");
        FAIL() << "accepted";
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::numerics);
        EXPECT_EQ(error.detail().where, "a factor");
      }
  }
}

}  // namespace
}  // namespace nibble
