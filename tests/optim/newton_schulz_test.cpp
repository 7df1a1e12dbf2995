// Newton-Schulz against singular values from Jacobi's method and the same iteration in double.
#include "optim/newton_schulz.hpp"

#include <gtest/gtest.h>

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "tensor/error.hpp"
#include "tests/optim/matrices.hpp"

namespace nibble {
namespace {

using testing::Matrix;

constexpr NewtonSchulzTable tables[] = {NewtonSchulzTable::classic, NewtonSchulzTable::tuned,
                                        NewtonSchulzTable::polar_express};

Matrix orthogonalised(const Matrix& matrix, const NewtonSchulzSettings& settings, int threads = 2) {
  Stream stream(threads);
  const OwnedTensor memory = matrix.tensor();
  const NewtonSchulz::Shape shape{matrix.rows, matrix.cols};
  NewtonSchulz iterate(settings, {&shape, 1});
  iterate(stream, memory);
  return Matrix(memory.view());
}

double mapped(NewtonSchulzTable table, double x, int64_t steps = 5) {
  for (const auto& [a, b, c] : newton_schulz_polynomials(table, steps)) x = a * x + b * x * x * x + c * std::pow(x, 5);
  return x;
}

// Reference 6.1.
TEST(NewtonSchulz, PolynomialsMapAsPublished) {
  constexpr double inputs[] = {1, .1, .01, .001};
  constexpr double classic[] = {.696436, .712120, .698917, .470544}, tuned[] = {.978346, 1.019050, 1.018025, .474982},
                   polar[] = {.903537, 1.016459, .996775, .846647};
  for (int i = 0; i < 4; ++i) {
    EXPECT_NEAR(mapped(NewtonSchulzTable::classic, inputs[i]), classic[i], 1e-6);
    EXPECT_NEAR(mapped(NewtonSchulzTable::tuned, inputs[i]), tuned[i], 1e-6);
    EXPECT_NEAR(mapped(NewtonSchulzTable::polar_express, inputs[i] / 1.02), polar[i], 1e-6);
  }
  EXPECT_NEAR(mapped(NewtonSchulzTable::classic, .5), .765439, 1e-6);
  constexpr double after[] = {.701000, 1.113620, .720706, 1.089974, .696436};
  for (int64_t steps = 1; steps <= 5; ++steps)
    EXPECT_NEAR(mapped(NewtonSchulzTable::classic, 1, steps), after[steps - 1], 1e-6);
}

// Of diag(1, 0.5, 0): the root of the mean of 0, (1/4 - 1)^2 and 1.
TEST(NewtonSchulz, OrthogonalityErrorIsThatOfSingularValues) {
  Stream stream(2);
  for (const bool tall : {false, true})
    for (const DType operands : {DType::f32, DType::bf16}) {
      Matrix matrix(tall ? 5 : 3, tall ? 3 : 5);
      matrix.at(0, 0) = 1;
      matrix.at(1, 1) = 0.5;
      const NewtonSchulz::Shape shape{matrix.rows, matrix.cols};
      NewtonSchulz iterate({.operands = operands}, {&shape, 1});
      const OwnedTensor memory = matrix.tensor();
      EXPECT_NEAR(iterate.orthogonality_error(stream, memory), std::sqrt((0.5625 + 1) / 3), 1e-6);
      EXPECT_EQ(Matrix(memory.view()).values, matrix.values) << "the matrix stays";
    }
}

TEST(NewtonSchulz, TablesThatAreTooShortRepeatTheirLastPolynomial) {
  for (const NewtonSchulzTable table : tables) {
    const std::vector<Quintic> seven = newton_schulz_polynomials(table, 7), two = newton_schulz_polynomials(table, 2);
    EXPECT_EQ(seven.size(), 7u);
    EXPECT_EQ(seven[6].a, seven[4].a);
    EXPECT_EQ(two[1].b, seven[1].b);
  }
}

// Reference 6.1: an example of 2 x 3, and the identity.
TEST(NewtonSchulz, SmallExamples) {
  const Matrix example(2, 3, {1, 2, 3, 4, 5, 6});
  constexpr double expected[] = {-0.5682901, 0.0577419, 0.6837740, 0.5633547, 0.4056128, 0.2478710};
  const Matrix result = orthogonalised(example, {.operands = DType::f32});
  for (size_t i = 0; i < 6; ++i) EXPECT_NEAR(result.values[i], expected[i], 1e-5) << i;
  const Matrix identity = orthogonalised(Matrix::identity(4), {.operands = DType::f32});
  for (int64_t i = 0; i < 4; ++i)
    for (int64_t j = 0; j < 4; ++j) EXPECT_NEAR(identity.at(i, j), i == j ? .7654387 : 0, 1e-5);
}

/// Tall, wide, square; smaller than a register, larger than a tile and no multiple of it.
constexpr std::pair<int64_t, int64_t> shapes[] = {{70, 20}, {20, 70}, {48, 48}, {1, 9}, {9, 1}, {270, 280}};

// Every singular value becomes what the polynomials make of it, along the same singular vectors.
TEST(NewtonSchulz, MapsSingularValues) {
  for (const NewtonSchulzTable table : tables)
    for (const auto& [rows, cols] : shapes)
      for (const int64_t rank : {std::min(rows, cols), std::min(rows, cols) / 2}) {
        if (rank == 0) continue;
        const Matrix matrix = Matrix::gaussian(rows, rank, 1) * Matrix::gaussian(rank, cols, 2);
        const std::string how = std::to_string(static_cast<int>(table)) + ": " + std::to_string(rows) + " x " +
                                std::to_string(cols) + " of rank " + std::to_string(rank);
        const Matrix exact = testing::newton_schulz(matrix, table, 5);
        const Matrix f32 = orthogonalised(matrix, {.table = table, .operands = DType::f32});
        EXPECT_LT((f32 - exact).norm(), 3e-4 * exact.norm()) << how;
        // Of what is exactly zero bf16 leaves rounding errors, which the polynomials lift as all that is small.
        if (rank < std::min(rows, cols)) continue;
        const Matrix bf16 = orthogonalised(matrix, {.table = table, .operands = DType::bf16});
        // Near 1, where a single singular value lies, large terms cancel: most of all Polar Express's, 8.2 - 22.5
        // + 15.9.
        const double most = rank == 1 ? 0.25 : table == NewtonSchulzTable::polar_express ? 0.045 : 0.03;
        EXPECT_LT((bf16 - exact).norm(), most * exact.norm()) << how;
      }
}

// The reference's table of ranges, for spectra that fill [low, 1] of the norm.
TEST(NewtonSchulz, SingularValuesLieInThePublishedRanges) {
  struct Range {
    NewtonSchulzTable table;
    double low, from, to;
  };
  constexpr Range ranges[] = {
      {NewtonSchulzTable::classic, .001, .4705, 1.2024},       {NewtonSchulzTable::classic, .002, .6818, 1.2024},
      {NewtonSchulzTable::classic, .01, .6818, 1.1344},        {NewtonSchulzTable::tuned, .001, .4750, 1.1450},
      {NewtonSchulzTable::tuned, .002, .8525, 1.1450},         {NewtonSchulzTable::tuned, .01, .9778, 1.0318},
      {NewtonSchulzTable::polar_express, .001, .8467, 1.1411}, {NewtonSchulzTable::polar_express, .002, .8589, 1.1411},
      {NewtonSchulzTable::polar_express, .01, .8589, 1.1411}};
  constexpr int64_t count = 40;
  for (const auto& [table, low, from, to] : ranges)
    for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{count, 90}, {90, count}, {count, count}}) {
      std::vector<double> spectrum;
      for (int64_t i = 0; i < count; ++i)
        spectrum.push_back(std::pow(low * 1.02, static_cast<double>(i) / (count - 1)));
      // The norm is more than the largest value; what counts is that the least stays above `low` of it.
      double squares = 0;
      for (const double value : spectrum) squares += value * value;
      const double lift = std::sqrt(squares);
      for (double& value : spectrum) value = std::max(value, low * 1.02 * lift);
      const Matrix matrix = testing::with_singular_values(rows, cols, spectrum);
      for (const DType operands : {DType::f32, DType::bf16}) {
        const std::vector<double> values =
            testing::singular_values(orthogonalised(matrix, {.table = table, .operands = operands}));
        const double off = operands == DType::f32 ? 2e-3 : 0.05;
        EXPECT_GT(values.back(), from - off) << static_cast<int>(table) << " " << low << " " << rows << "x" << cols;
        EXPECT_LT(values.front(), to + off) << static_cast<int>(table) << " " << low << " " << rows << "x" << cols;
      }
    }
}

// Reference 6.1: what five classic steps make of Gaussian matrices, whose singular values reach down to the 512th part
// of the norm where they are square; a few stay small. Singular values from Eigen.
TEST(NewtonSchulz, GaussianMatricesAsPublished) {
  struct Published {
    int64_t rows, cols;
    double least, middle, most, rms;  ///< of the singular values their mean or median; of the elements the RMS
  };
  for (const auto& [rows, cols, least, middle, most, rms] :
       {Published{256, 1024, .6826, .945, 1.1344, .02987}, Published{512, 512, .08, .93, 1.202, .04148}})
    for (const DType operands : {DType::f32, DType::bf16}) {
      const Matrix o = orthogonalised(Matrix::gaussian(rows, cols, 31), {.operands = operands});
      const Eigen::Map<const Eigen::MatrixXd> transposed(o.values.data(), cols, rows);
      Eigen::VectorXd values =
          Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(transposed.transpose() * transposed, Eigen::EigenvaluesOnly)
              .eigenvalues()
              .cwiseMax(0)
              .cwiseSqrt();
      const double off = operands == DType::f32 ? 2e-3 : 0.05;
      EXPECT_LT(values.maxCoeff(), most + off) << rows;
      EXPECT_NEAR(rows < cols ? values.mean() : values[rows / 2], middle, rows < cols ? 3e-3 : 0.02) << rows;
      EXPECT_NEAR(o.norm() / std::sqrt(static_cast<double>(rows * cols)), rms, 0.01 * rms) << rows;
      if (rows < cols) {
        EXPECT_GT(values.minCoeff(), least - off);
      } else {
        EXPECT_LT(values.minCoeff(), .68) << "the least one depends on the draw: published " << least;
        EXPECT_NEAR(static_cast<double>((values.array() > .68 - off).count()) / 512, .98, .015);
      }
    }
}

TEST(NewtonSchulz, ZerosStayZeros) {
  for (const NewtonSchulzTable table : tables)
    for (const DType operands : {DType::f32, DType::bf16})
      for (const auto& [rows, cols] : shapes)
        for (const double value : orthogonalised(Matrix(rows, cols), {.table = table, .operands = operands}).values)
          ASSERT_EQ(value, 0);
}

TEST(NewtonSchulz, IsTheTransposeOfTheTranspose) {
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{40, 70}, {270, 530}}) {
    const Matrix matrix = Matrix::gaussian(rows, cols, 3);
    for (const DType operands : {DType::f32, DType::bf16})
      EXPECT_EQ(orthogonalised(matrix.transposed(), {.operands = operands}).transposed().values,
                orthogonalised(matrix, {.operands = operands}).values);
  }
}

TEST(NewtonSchulz, DoesNotSeeTheScale) {
  const Matrix matrix = Matrix::gaussian(40, 70, 3);
  Matrix larger = matrix;
  for (double& value : larger.values) value *= 1024;
  const Matrix one = orthogonalised(matrix, {.operands = DType::f32}),
               other = orthogonalised(larger, {.operands = DType::f32});
  EXPECT_LT((one - other).norm(), 1e-5 * one.norm());
}

TEST(NewtonSchulz, SameBitsWithAnyNumberOfThreads) {
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{530, 270}, {300, 600}})
    for (const DType operands : {DType::f32, DType::bf16}) {
      const Matrix matrix = Matrix::gaussian(rows, cols, 4);
      const Matrix one = orthogonalised(matrix, {.operands = operands}, 1);
      for (const int threads : {2, 3, 8})
        EXPECT_EQ(orthogonalised(matrix, {.operands = operands}, threads).values, one.values);
    }
}

// Memory that larger matrices left behind does not show.
TEST(NewtonSchulz, MatricesOfSeveralShapesShareMemory) {
  Stream stream(2);
  const NewtonSchulz::Shape shapes_to_come[] = {{90, 40}, {20, 30}};
  NewtonSchulz iterate({}, shapes_to_come);
  const Matrix small = Matrix::gaussian(20, 30, 5);
  const OwnedTensor first = Matrix::gaussian(90, 40, 6).tensor(), second = small.tensor();
  iterate(stream, first);
  iterate(stream, second);
  EXPECT_EQ(Matrix(second.view()).values, orthogonalised(small, {}).values);
}

TEST(NewtonSchulz, NoStepsAreRefused) {
  const NewtonSchulz::Shape shape{2, 2};
  EXPECT_THROW(NewtonSchulz({.steps = 0}, {&shape, 1}), Error);
}

}  // namespace
}  // namespace nibble
