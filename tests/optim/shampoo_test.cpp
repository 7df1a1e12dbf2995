// Shampoo against Meta's, against the formulas in double, and against what must hold for any gradient.
#include "optim/shampoo.hpp"

#include <gtest/gtest.h>

#include <cmath>

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

TEST(Shampoo, TenStepsAsDistributedShampoo) {
  const auto expected = testing::recorded("shampoo_10_steps.json");
  Stream stream(2);
  for (const auto& how : expected["cases"]) {
    const std::string grafting = how["grafting"];
    SCOPED_TRACE(grafting);
    testing::RecordedSteps steps(expected["shapes"]);
    Shampoo optimizer(steps.parameters.list, {.beta1 = how["beta1"],
                                              .beta2 = how["beta2"],
                                              .graft_epsilon = expected["graft_epsilon"],
                                              .epsilon = how["epsilon"],
                                              .exponent = how["exponent"],
                                              .every = how["every"],
                                              .grafting = grafting == "adam"  ? Grafting::adam
                                                          : grafting == "sgd" ? Grafting::sgd
                                                                              : Grafting::none,
                                              .weight_decay = expected["weight_decay"]});
    for (int64_t step = 1; step <= 10; ++step) steps.step(stream, optimizer, step);
    steps.expect(how["weights"]);
  }
}

/// (factor + epsilon)^-exponent
Doubles root_of(const Doubles& factor, double epsilon, double exponent) {
  const Eigen::SelfAdjointEigenSolver<Doubles> solver(factor);
  const Eigen::VectorXd powers = (solver.eigenvalues().array().max(0) + epsilon).pow(-exponent);
  return solver.eigenvectors() * powers.asDiagonal() * solver.eigenvectors().transpose();
}

struct Case {
  testing::Shape shape;
  int64_t rank = 0;  ///< 0: full
};

TEST(Shampoo, TenStepsAsInDouble) {
  Stream stream(2);
  const std::vector<Case> cases = {
      {{12, 30, true}}, {{25, 17, false}}, {{24, 24, true}}, {{20, 16, true}, 3}, {{1, 9, true}}};
  for (const Grafting grafting : {Grafting::adam, Grafting::sgd, Grafting::none})
    for (const Case& how : cases) {
      // What lies outside of the gradients' space is rounding, which a small epsilon would blow up.
      const ShampooSettings settings{.beta1 = 0.9, .epsilon = 1e-3, .every = 4, .grafting = grafting};
      const Parameters parameters({how.shape}, DType::bf16);
      const OptimizedParameter& parameter = parameters.list[0];
      Draws draw(7);
      fill(parameter.master, draw);
      const Doubles before = doubles(parameter.master);
      Doubles w = before, m = Doubles::Zero(w.rows(), w.cols()), v = m, left = Doubles::Zero(w.rows(), w.rows()),
              right = Doubles::Zero(w.cols(), w.cols()), pl, pr;
      Shampoo optimizer(parameters.list, settings);
      for (int64_t step = 1; step <= 10; ++step) {
        const double rate = 1e-2 * static_cast<double>(step);
        testing::draw_gradient(parameter, how.rank, draw);
        const Doubles g = 0.5 * doubles(parameter.gradient);
        optimizer.step(stream, {.step = step, .learning_rate = rate, .gradient_scale = 0.5});

        const double bc1 = 1 - std::pow(0.9, step), bc2 = 1 - std::pow(0.95, step);
        m = 0.9 * m + 0.1 * g;
        v = 0.95 * v + 0.05 * g.cwiseAbs2();
        left = 0.95 * left + 0.05 * g * g.transpose();
        right = 0.95 * right + 0.05 * g.transpose() * g;
        if (step % 4 == 0 || (grafting == Grafting::none && step < 4)) {
          pl = root_of(left / bc2, 1e-3, 0.25);
          pr = root_of(right / bc2, 1e-3, 0.25);
        }
        Doubles d = m / bc1;
        if (grafting == Grafting::adam) d = (m / bc1).array() / ((v / bc2).cwiseSqrt().array() + 1e-8);
        if (grafting == Grafting::none) d = pl * (m / bc1) * pr;
        else if (step >= 4) d = (pl * m * pr) * (d.norm() / (pl * m * pr).norm());
        w = (how.shape.decay ? 1 - rate * 0.1 : 1) * w - rate * d;
      }
      EXPECT_LT(testing::error_of(doubles(parameter.master), w, before), 1e-5)
          << static_cast<int>(grafting) << ": " << how.shape.rows << " x " << how.shape.cols << ", rank " << how.rank;
      for (int64_t row = 0; row < parameter.working.rows; ++row)
        for (int64_t col = 0; col < parameter.working.cols; ++col)
          ASSERT_EQ(parameter.working.row<bf16>(row)[col].bits, bf16(parameter.master.row<float>(row)[col]).bits);
    }
}

// g = s u vᵀ: both factors have the one eigenvalue s^2, so d = s (s^2 + epsilon)^(-2 exponent) u vᵀ.
TEST(Shampoo, OfARankOneGradient) {
  Stream stream(1);
  const Doubles u = doubles(testing::orthonormal_rows(1, 7, 1)).transpose(),
                v = doubles(testing::orthonormal_rows(1, 4, 2));
  for (const double s : {0.1, 3.0})
    for (const double exponent : {0.25, 0.5}) {
      const Parameters parameters({{7, 4, false}}, DType::f32);
      testing::put(s * u * v, parameters.list[0].gradient);
      Shampoo optimizer(parameters.list, {.epsilon = 0.25, .exponent = exponent, .grafting = Grafting::none});
      optimizer.step(stream, {.step = 1, .learning_rate = 1});
      const Doubles expected = -s * std::pow(s * s + 0.25, -2 * exponent) * u * v;
      EXPECT_LT((doubles(parameters.list[0].master) - expected).norm(), 1e-5 * expected.norm()) << s << exponent;
    }
}

// Before the first roots it takes Adam's steps, and with grafting these lengths for ever.
TEST(Shampoo, BeginsAsAdamWAndKeepsItsLengths) {
  Stream stream(2);
  const std::vector<testing::Shape> shapes = {{6, 20, true}};
  const Parameters parameters(shapes, DType::bf16), others(shapes, DType::bf16);
  Shampoo shampoo(parameters.list, {.every = 5, .weight_decay = 0});
  AdamW adamw(others.list, {.beta1 = 0.95, .weight_decay = 0});
  Draws draw(3);
  fill(parameters.list[0].master, draw);
  testing::put(doubles(parameters.list[0].master), others.list[0].master);
  for (int64_t step = 1; step <= 8; ++step) {
    const Doubles before = doubles(parameters.list[0].master), other_before = doubles(others.list[0].master);
    fill(parameters.list[0].gradient, draw);
    testing::put(doubles(parameters.list[0].gradient), others.list[0].gradient);
    shampoo.step(stream, {.step = step, .learning_rate = 1e-2, .gradient_scale = 0.25});
    adamw.step(stream, {.step = step, .learning_rate = 1e-2, .gradient_scale = 0.25});
    const Doubles change = doubles(parameters.list[0].master) - before,
                  other = doubles(others.list[0].master) - other_before;
    EXPECT_NEAR(change.norm() / other.norm(), 1, 1e-5);
    const double turned = (change - other).norm() / other.norm();
    EXPECT_TRUE(step < 5 ? turned < 1e-5 : turned > 0.1) << step << ": " << turned;
  }
}

TEST(Shampoo, TurnsWithTheGradients) {
  testing::expect_to_turn_with_gradients<Shampoo>(
      ShampooSettings{.epsilon = 1e-25, .every = 2, .grafting = Grafting::none});
}

TEST(Shampoo, TheScaleOfGradientsDoesNotMatter) {
  testing::expect_no_scale_of_gradients<Shampoo>(
      ShampooSettings{.epsilon = 1e-25, .every = 2, .grafting = Grafting::none});
}

TEST(Shampoo, SameBitsWithAnyNumberOfThreads) {
  testing::expect_same_bits_with_any_threads<Shampoo>(ShampooSettings{.every = 2});
}

TEST(Shampoo, SidesThatAreTooLongHaveNoFactor) {
  Stream stream(1);
  const Parameters parameters({{5, 9, false}}, DType::f32);
  Shampoo optimizer(parameters.list, {.every = 1, .max_side = 6, .grafting = Grafting::none});
  Draws draw(4);
  fill(parameters.list[0].gradient, draw);
  const Doubles g = doubles(parameters.list[0].gradient);
  optimizer.step(stream, {.step = 1, .learning_rate = 1});
  const Doubles expected = -root_of(g * g.transpose(), 1e-12, 0.25) * g;
  EXPECT_LT((doubles(parameters.list[0].master) - expected).norm(), 1e-5 * expected.norm());
}

TEST(Shampoo, ZeroGradientsOnlyDecay) {
  Stream stream(1);
  for (const Grafting grafting : {Grafting::adam, Grafting::sgd, Grafting::none}) {
    const Parameters parameters({{5, 3, true}}, DType::f32);
    Shampoo optimizer(parameters.list, {.every = 2, .grafting = grafting, .weight_decay = 0.25});
    float kept = 1.5f;
    for (int i = 0; i < 15; ++i) parameters.master(0)[i] = kept;
    for (int64_t step = 1; step <= 5; ++step) {
      optimizer.step(stream, {.step = step, .learning_rate = 0.5});
      kept *= 0.875f;
      for (int i = 0; i < 15; ++i) ASSERT_EQ(parameters.master(0)[i], kept);
    }
    for (int j = 0; j < 3; ++j) parameters.gradient(0)[3 + j] = static_cast<float>(1 + j);
    for (int64_t step = 6; step <= 9; ++step) optimizer.step(stream, {.step = step, .learning_rate = 0.5});
    for (int i = 0; i < 15; ++i) ASSERT_TRUE(std::isfinite(parameters.master(0)[i]));
  }
}

TEST(Shampoo, StateHasMomentsFactorsAndRoots) {
  const Parameters parameters({{5, 7, true}}, DType::bf16);
  StateList adam, sgd;
  Shampoo(parameters.list, {.max_side = 6}).state(adam);
  ASSERT_EQ(adam.entries().size(), 4u);  // the right side is too long
  EXPECT_EQ(adam.entries()[1].name, "optimizer/second_moment/parameter0");
  EXPECT_EQ(adam.entries()[1].rows, 5);
  EXPECT_EQ(adam.entries()[1].cols, 7);
  EXPECT_EQ(adam.entries()[2].name, "optimizer/left_factor/parameter0");
  EXPECT_EQ(adam.entries()[3].name, "optimizer/left_root/parameter0");
  EXPECT_EQ(adam.entries()[3].rows, 5);
  EXPECT_EQ(adam.entries()[3].cols, 5);
  Shampoo(parameters.list, {.grafting = Grafting::sgd}).state(sgd);
  EXPECT_EQ(sgd.entries().size(), 5u);
}

void expect_refused(float gradient, const ShampooSettings& settings, const std::string& where) {
  Stream stream(1);
  const Parameters parameters({{4, 4, true}}, DType::f32);
  Shampoo optimizer(parameters.list, settings);
  for (int i = 0; i < 16; i += 5) parameters.gradient(0)[i] = gradient;
  try {
    optimizer.step(stream, {.step = 1, .learning_rate = 1e-2});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::numerics);
    EXPECT_EQ(error.detail().where, where);
  }
}

TEST(Shampoo, WhatIsNotFiniteIsRefused) {
  expect_refused(1e30f, {.every = 1}, "parameter0: left factor");
  expect_refused(1e-20f, {.epsilon = 1e-30, .exponent = 1, .every = 1}, "parameter0");
}

TEST(Shampoo, ConstantsOutOfRangeAreRefused) {
  const Parameters parameters({{2, 2}}, DType::f32);
  EXPECT_THROW(Shampoo(parameters.list, {.beta1 = 1}), Error);
  EXPECT_THROW(Shampoo(parameters.list, {.beta2 = std::nan("")}), Error);
  EXPECT_THROW(Shampoo(parameters.list, {.graft_epsilon = 0}), Error);
  EXPECT_THROW(Shampoo(parameters.list, {.epsilon = 0}), Error);
  EXPECT_THROW(Shampoo(parameters.list, {.exponent = 0}), Error);
  EXPECT_THROW(Shampoo(parameters.list, {.every = 0}), Error);
  EXPECT_THROW(Shampoo(parameters.list, {.max_side = 0}), Error);
  EXPECT_THROW(Shampoo(parameters.list, {.weight_decay = -1}), Error);
}

}  // namespace
}  // namespace nibble
