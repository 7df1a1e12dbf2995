// SOAP against its authors' code, against the formulas in double, and against what must hold for any gradient.
#include "optim/soap.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "optim/adamw.hpp"
#include "tensor/error.hpp"
#include "tests/optim/double_matrices.hpp"
#include "tests/optim/recorded_steps.hpp"

namespace nibble {
namespace {

using testing::Doubles;
using testing::doubles;
using testing::Draws;
using testing::fill;
using testing::Parameters;
using testing::state_of;

// Where a factor does not reach, its eigenvectors are anybody's choice; there the authors' bases are taken.
TEST(Soap, TenStepsAsTheAuthors) {
  const auto expected = testing::recorded("soap_10_steps.json");
  Stream stream(2);
  for (const auto& how : expected["cases"]) {
    testing::RecordedSteps steps(expected["shapes"]);
    const std::vector<OptimizedParameter>& list = steps.parameters.list;
    Soap optimizer(list, {.beta1 = how["beta1"],
                          .beta2 = how["beta2"],
                          .factor_beta = how["factor_beta"],
                          .epsilon = expected["epsilon"],
                          .every = how["every"],
                          .max_side = how["max_side"],
                          .weight_decay = 0});
    steps.step(stream, optimizer, 1);
    for (size_t i = 0; i < list.size(); ++i)
      for (const int side : {0, 1}) {
        const auto& basis = how["first_bases"][i][side];
        const Tensor own =
            state_of(optimizer, std::string(side == 0 ? "left" : "right") + "_basis/" + list[i].info->name);
        ASSERT_EQ(own.size(), std::ssize(basis));
        const int64_t reached = std::min(list[i].info->rows, list[i].info->cols);
        for (int64_t k = 0; k < own.rows; ++k) {
          double cosine = 0;
          for (int64_t j = 0; j < own.cols; ++j) cosine += own.row<float>(k)[j] * basis[k * own.cols + j].get<double>();
          EXPECT_NEAR(k < reached ? std::abs(cosine) : 1, 1, 1e-5) << i << side << k;
          for (int64_t j = 0; j < own.cols; ++j) own.row<float>(k)[j] = basis[k * own.cols + j].get<float>();
        }
      }
    for (int64_t step = 2; step <= 10; ++step) steps.step(stream, optimizer, step);
    steps.expect(how["weights"]);
  }
}

/// The rows of a matrix, made orthonormal one after the other (Gram and Schmidt, twice).
Doubles orthonormal(Doubles rows) {
  for (int64_t k = 0; k < rows.rows(); ++k) {
    for (int repeat = 0; repeat < 2; ++repeat)
      for (int64_t i = 0; i < k; ++i) rows.row(k) -= rows.row(k).dot(rows.row(i)) * rows.row(i);
    if (rows.row(k).norm() > 1e-12) rows.row(k).normalize();
    else rows.row(k).setZero();
  }
  return rows;
}

/// In double, as the paper has it. The first basis is given: eigenvectors that belong to one eigenvalue are no numbers.
struct Reference {
  SoapSettings settings;
  Doubles weights, first, second, left, right, left_basis{}, right_basis{};

  Reference(const SoapSettings& how, const Doubles& begin)
      : settings(how),
        weights(begin),
        first(Doubles::Zero(begin.rows(), begin.cols())),
        second(first),
        left(Doubles::Zero(begin.rows(), begin.rows())),
        right(Doubles::Zero(begin.cols(), begin.cols())) {}

  void take_in(const Doubles& g) {
    left = settings.factor_beta * left + (1 - settings.factor_beta) * g * g.transpose();
    right = settings.factor_beta * right + (1 - settings.factor_beta) * g.transpose() * g;
  }
  static std::vector<int64_t> renew(const Doubles& factor, Doubles& basis) {
    const Eigen::VectorXd values = (basis * factor * basis.transpose()).diagonal();
    std::vector<int64_t> order(static_cast<size_t>(values.size()));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return values(a) > values(b); });
    basis = orthonormal(basis(order, Eigen::all) * factor / values.maxCoeff());
    return order;
  }
  void step(const Doubles& g, int64_t step, double rate, double decay) {
    const auto t = static_cast<double>(step - 1);
    first = settings.beta1 * first + (1 - settings.beta1) * g;
    const Doubles m = left_basis * first * right_basis.transpose(), turned = left_basis * g * right_basis.transpose();
    second = settings.beta2 * second + (1 - settings.beta2) * turned.cwiseAbs2();
    const Doubles root = (second / (1 - std::pow(settings.beta2, t))).cwiseSqrt();
    const Doubles divided = (m / (1 - std::pow(settings.beta1, t))).array() / (root.array() + settings.epsilon);
    weights = (1 - rate * decay) * weights - rate * left_basis.transpose() * divided * right_basis;
    take_in(g);
    if ((step - 1) % settings.every != 0) return;
    second = Doubles(second(renew(left, left_basis), Eigen::all));
    second = Doubles(second(Eigen::all, renew(right, right_basis)));
  }
};

void expect_eigenvectors(const Doubles& basis, const Doubles& factor) {
  EXPECT_LT((basis * basis.transpose() - Doubles::Identity(basis.rows(), basis.cols())).cwiseAbs().maxCoeff(), 1e-5);
  const Doubles values = basis * factor * basis.transpose();
  const Eigen::VectorXd diagonal = values.diagonal();
  EXPECT_LT((values - Doubles(diagonal.asDiagonal())).norm(), 1e-5 * factor.norm());
  for (int64_t i = 1; i < diagonal.size(); ++i) EXPECT_GE(diagonal(i - 1), diagonal(i) - 1e-6 * diagonal(0));
}

struct Case {
  testing::Shape shape;
  int64_t rank = 0;  ///< 0: full
};

TEST(Soap, TenStepsAsInDouble) {
  Stream stream(2);
  const std::vector<Case> cases = {
      {{12, 30, true}}, {{25, 17, false}}, {{24, 24, true}}, {{20, 16, true}, 3}, {{2, 3, true}}};
  for (const Case& how : cases) {
    // What lies outside of the gradients' space is rounding, which a small epsilon would blow up.
    const SoapSettings settings{.beta1 = 0.9, .factor_beta = 0.8, .epsilon = how.rank > 0 ? 1e-2 : 1e-8, .every = 2};
    const Parameters parameters({how.shape}, DType::bf16);
    const OptimizedParameter& parameter = parameters.list[0];
    Draws draw(7);
    fill(parameter.master, draw);
    const Doubles before = doubles(parameter.master);
    Reference reference(settings, before);
    Soap optimizer(parameters.list, settings);
    for (int64_t step = 1; step <= 10; ++step) {
      const double rate = 1e-2 * static_cast<double>(step);
      testing::draw_gradient(parameter, how.rank, draw);
      const Doubles gradient = 0.5 * doubles(parameter.gradient);
      optimizer.step(stream, {.step = step, .learning_rate = rate, .gradient_scale = 0.5});
      if (step == 1) {
        EXPECT_EQ(doubles(parameter.master), before);
        reference.take_in(gradient);
        reference.left_basis = doubles(state_of(optimizer, "left_basis/parameter0"));
        reference.right_basis = doubles(state_of(optimizer, "right_basis/parameter0"));
        expect_eigenvectors(reference.left_basis, reference.left);
        expect_eigenvectors(reference.right_basis, reference.right);
      } else {
        reference.step(gradient, step, rate, how.shape.decay ? 0.1 : 0);
      }
    }
    const double error = testing::error_of(doubles(parameter.master), reference.weights, before);
    EXPECT_LT(error, 1e-5) << how.shape.rows << " x " << how.shape.cols << ", rank " << how.rank;
    for (int64_t row = 0; row < parameter.working.rows; ++row)
      for (int64_t col = 0; col < parameter.working.cols; ++col)
        ASSERT_EQ(parameter.working.row<bf16>(row)[col].bits, bf16(parameter.master.row<float>(row)[col]).bits);
  }
}

// All sides are longer than what is rotated; its steps are counted from the second one.
TEST(Soap, WithoutARotationItIsAdamW) {
  Stream stream(2);
  const std::vector<testing::Shape> shapes = {{5, 40, true}, {30, 3, false}};
  const Parameters parameters(shapes, DType::bf16), others(shapes, DType::bf16);
  Soap soap(parameters.list, {.beta1 = 0.9, .max_side = 2});
  AdamW adamw(others.list, {});
  Draws draw(3), same(3);
  for (size_t i = 0; i < 2; ++i) {
    fill(parameters.list[i].master, draw);
    fill(others.list[i].master, same);
  }
  for (int64_t step = 1; step <= 12; ++step) {
    for (size_t i = 0; i < 2; ++i) {
      fill(parameters.list[i].gradient, draw);
      fill(others.list[i].gradient, same);
    }
    soap.step(stream, {.step = step, .learning_rate = 1e-2, .gradient_scale = 0.25});
    if (step > 1) adamw.step(stream, {.step = step - 1, .learning_rate = 1e-2, .gradient_scale = 0.25});
  }
  for (size_t i = 0; i < 2; ++i)
    for (int64_t j = 0; j < parameters.list[i].master.size(); ++j)
      ASSERT_NEAR(parameters.master(i)[j], others.master(i)[j], 3e-7) << i;
}

TEST(Soap, TurnsWithTheGradients) { testing::expect_to_turn_with_gradients<Soap>(SoapSettings{.every = 2}); }

TEST(Soap, TheScaleOfGradientsDoesNotMatter) {
  testing::expect_no_scale_of_gradients<Soap>(SoapSettings{.epsilon = 1e-25, .every = 2});
}

TEST(Soap, SameBitsWithAnyNumberOfThreads) {
  testing::expect_same_bits_with_any_threads<Soap>(SoapSettings{.every = 2});
}

// Nothing is divided by zero: no gradient at all, none at first (as behind a projection that begins as zero), and one
// of a single row.
TEST(Soap, ZeroGradientsOnlyDecay) {
  Stream stream(1);
  for (const int gradients_from : {10, 3}) {
    const Parameters parameters({{5, 3, true}}, DType::f32);
    Soap optimizer(parameters.list, {.every = 2, .weight_decay = 0.25});
    float kept = 1.5f;
    for (int i = 0; i < 15; ++i) parameters.master(0)[i] = kept;
    for (int64_t step = 1; step <= 7; ++step) {
      if (step == gradients_from)
        for (int j = 0; j < 3; ++j) parameters.gradient(0)[3 + j] = static_cast<float>(1 + j);
      optimizer.step(stream, {.step = step, .learning_rate = 0.5});
      if (step > 1) kept *= 0.875f;
      for (int i = 0; i < 15 && step < gradients_from; ++i) ASSERT_EQ(parameters.master(0)[i], kept);
    }
    for (int i = 0; i < 15; ++i) ASSERT_TRUE(std::isfinite(parameters.master(0)[i]));
    EXPECT_EQ(parameters.master(0)[4] < kept, gradients_from < 10);
  }
}

TEST(Soap, StateHasMomentsFactorsAndBases) {
  const Parameters parameters({{5, 7, true}}, DType::bf16);
  Soap optimizer(parameters.list, {.max_side = 6});
  StateList list;
  optimizer.state(list);
  ASSERT_EQ(list.entries().size(), 4u);  // the right side is too long
  EXPECT_EQ(list.entries()[1].name, "optimizer/rotated_second_moment/parameter0");
  EXPECT_EQ(list.entries()[1].rows, 5);
  EXPECT_EQ(list.entries()[1].cols, 7);
  EXPECT_EQ(list.entries()[1].tensor.size(), 35);
  EXPECT_EQ(list.entries()[2].name, "optimizer/left_factor/parameter0");
  EXPECT_EQ(list.entries()[3].name, "optimizer/left_basis/parameter0");
  EXPECT_EQ(list.entries()[3].rows, 5);
  EXPECT_EQ(list.entries()[3].cols, 5);
}

TEST(Soap, FactorsThatAreNotFiniteAreRefused) {
  Stream stream(1);
  const Parameters parameters({{4, 4, true}}, DType::f32);
  Soap optimizer(parameters.list, {});
  for (int i = 0; i < 16; ++i) parameters.gradient(0)[i] = 1e30f;
  try {
    optimizer.step(stream, {.step = 1, .learning_rate = 1e-2});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::numerics);
    EXPECT_EQ(error.detail().where, "parameter0: left factor");
  }
}

TEST(Soap, ConstantsOutOfRangeAreRefused) {
  const Parameters parameters({{2, 2}}, DType::f32);
  EXPECT_THROW(Soap(parameters.list, {.beta1 = 1}), Error);
  EXPECT_THROW(Soap(parameters.list, {.beta2 = -0.1}), Error);
  EXPECT_THROW(Soap(parameters.list, {.factor_beta = std::nan("")}), Error);
  EXPECT_THROW(Soap(parameters.list, {.epsilon = 0}), Error);
  EXPECT_THROW(Soap(parameters.list, {.every = 0}), Error);
  EXPECT_THROW(Soap(parameters.list, {.max_side = 0}), Error);
  EXPECT_THROW(Soap(parameters.list, {.weight_decay = -1}), Error);
}

}  // namespace
}  // namespace nibble
