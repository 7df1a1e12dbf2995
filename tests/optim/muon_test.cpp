// Muon and NorMuon against PyTorch, worked vectors and an obvious implementation in double.
#include "optim/muon.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "tensor/error.hpp"
#include "tests/optim/matrices.hpp"
#include "tests/optim/parameters.hpp"
#include "tests/optim/recorded_steps.hpp"

namespace nibble {
namespace {

using testing::Draws;
using testing::fill;
using testing::Matrix;
using testing::Parameters;

constexpr NewtonSchulzSettings exact{.operands = DType::f32};

TEST(Muon, ScalesOfShapes) {
  struct Shape {
    int64_t rows, cols;
    double original, spectral, moonlight;
  };
  // Reference 6.1.
  constexpr Shape shapes[] = {{4096, 4096, 1, 1, 12.8},
                              {14336, 4096, 1.8708, 1.8708, 23.9466},
                              {4096, 14336, 1, .5345, 23.9466},
                              {1024, 4096, 1, .5, 12.8}};
  for (const auto& [rows, cols, original, spectral, moonlight] : shapes) {
    EXPECT_NEAR(muon_scale(MuonScale::original, rows, cols), original, 5e-5);
    EXPECT_NEAR(muon_scale(MuonScale::spectral, rows, cols), spectral, 5e-5);
    EXPECT_NEAR(muon_scale(MuonScale::moonlight, rows, cols), moonlight, 5e-5);
  }
}

// Reference 6.1: gradients 1, 2, -1 and a momentum of 0.95.
TEST(Muon, MomentumLooksAhead) {
  constexpr float gradients[] = {1, 2, -1}, ahead[] = {1.95f, 4.8025f, .712375f}, behind[] = {1, 2.95f, 1.8025f};
  Stream stream(1);
  for (const bool nesterov : {true, false}) {
    const OwnedTensor gradient(DType::f32, 1, 1), values(DType::f32, 1, 1), direction(DType::f32, 1, 1);
    const Moment momentum{.kind = MomentKind::matrix_momentum, .values = values};
    for (int step = 0; step < 3; ++step) {
      gradient.view().as<float>()[0] = 2 * gradients[step];
      momentum_update(stream, gradient, momentum, direction,
                      {.gradient_scale = 0.5f, .momentum = 0.95f, .nesterov = nesterov, .step = step + 1});
      EXPECT_NEAR(direction.view().as<float>()[0], (nesterov ? ahead : behind)[step], 1e-6);
    }
  }
}

TEST(Muon, TenStepsAsTorch) {
  const auto expected = testing::recorded("muon_10_steps.json");
  Stream stream(2);
  for (const auto& how : expected["cases"]) {
    const std::string scale = how["scale"];
    SCOPED_TRACE(scale);
    testing::RecordedSteps steps(expected["shapes"]);
    Muon optimizer(steps.parameters.list, {.nesterov = how["nesterov"],
                                           .scale = scale == "original"   ? MuonScale::original
                                                    : scale == "spectral" ? MuonScale::spectral
                                                                          : MuonScale::moonlight,
                                           .newton_schulz = exact});
    for (int64_t step = 1; step <= 10; ++step) steps.step(stream, optimizer, step);
    steps.expect(how["weights"]);
  }
}

/// Row by row, as the paper has it.
Matrix row_normalized(const Matrix& o, std::vector<double>& moments, double beta2) {
  moments.resize(static_cast<size_t>(o.rows));
  Matrix n = o;
  for (int64_t i = 0; i < o.rows; ++i) {
    double mean = 0;
    for (int64_t j = 0; j < o.cols; ++j) mean += o.at(i, j) * o.at(i, j) / static_cast<double>(o.cols);
    double& moment = moments[static_cast<size_t>(i)];
    moment = beta2 * moment + (1 - beta2) * mean;
    for (int64_t j = 0; j < o.cols; ++j) n.at(i, j) /= std::sqrt(moment) + 1e-8;
  }
  return n.norm() > 0 ? o.norm() / n.norm() * n : n;
}

// Reference 6.1: the first step on [[1, 2, 3], [4, 5, 6]].
TEST(NorMuon, FirstStep) {
  constexpr double expected[] = {-.5215339, .0529912, .6275164, .6249244, .4499427, .2749611};
  Stream stream(1);
  const Parameters parameters({{2, 3, false}}, DType::f32);
  Muon optimizer(parameters.list, {.scale = MuonScale::original, .row_beta2 = 0.95, .newton_schulz = exact});
  for (int i = 0; i < 6; ++i) parameters.gradient(0)[i] = static_cast<float>(i + 1);
  optimizer.step(stream, {.step = 1, .learning_rate = 1});
  double squares = 0;
  for (int i = 0; i < 6; ++i) {
    EXPECT_NEAR(-parameters.master(0)[i], expected[i], 1e-5);
    squares += parameters.master(0)[i] * parameters.master(0)[i];
  }
  EXPECT_NEAR(std::sqrt(squares), 1.1563585, 1e-5);
}

// Ten steps of both against double, with every table, decay and clipping.
TEST(Muon, TenStepsAsInDouble) {
  Stream stream(2);
  for (const bool normalizes : {false, true})
    for (const NewtonSchulzTable table :
         {NewtonSchulzTable::classic, NewtonSchulzTable::tuned, NewtonSchulzTable::polar_express}) {
      const std::vector<testing::Shape> shapes = {{12, 40, true}, {33, 17, false}, {24, 24, true}, {1, 30, true}};
      const Parameters parameters(shapes, DType::bf16);
      Draws draw(6);
      MuonSettings settings{.newton_schulz = {.table = table, .operands = DType::f32}};
      if (normalizes) settings.row_beta2 = 0.9;
      Muon optimizer(parameters.list, settings);
      std::vector<Matrix> weights, momenta;
      std::vector<std::vector<double>> rows(shapes.size());
      for (const OptimizedParameter& parameter : parameters.list) {
        fill(parameter.master, draw);
        weights.emplace_back(parameter.master);
        momenta.emplace_back(parameter.info->rows, parameter.info->cols);
      }
      for (int64_t step = 1; step <= 10; ++step) {
        const double rate = 1e-2 * static_cast<double>(step) / 10;
        for (size_t i = 0; i < shapes.size(); ++i) {
          fill(parameters.list[i].gradient, draw);
          const Matrix gradient = 0.5 * Matrix(parameters.list[i].gradient);
          momenta[i] = 0.95 * momenta[i] + gradient;
          Matrix o = testing::newton_schulz(gradient + 0.95 * momenta[i], table, 5);
          if (normalizes) o = row_normalized(o, rows[i], 0.9);
          const auto longer = static_cast<double>(std::max(shapes[i].rows, shapes[i].cols));
          weights[i] = (shapes[i].decay ? 1 - rate * 0.1 : 1) * weights[i] - rate * 0.2 * std::sqrt(longer) * o;
        }
        optimizer.step(stream, {.step = step, .learning_rate = rate, .gradient_scale = 0.5});
      }
      for (size_t i = 0; i < shapes.size(); ++i) {
        const Matrix seen(parameters.list[i].master);
        for (size_t j = 0; j < seen.values.size(); ++j)
          ASSERT_NEAR(seen.values[j], weights[i].values[j], 1e-5) << normalizes << static_cast<int>(table) << i;
        const Tensor& working = parameters.list[i].working;
        for (int64_t row = 0; row < working.rows; ++row)
          for (int64_t col = 0; col < working.cols; ++col)
            ASSERT_EQ(working.row<bf16>(row)[col].bits, bf16(static_cast<float>(seen.at(row, col))).bits);
      }
    }
}

// Operands in bf16 change the direction by little.
TEST(Muon, Bf16IsNear) {
  Stream stream(2);
  std::vector<Matrix> after;
  for (const DType operands : {DType::f32, DType::bf16}) {
    const Parameters parameters({{40, 90, false}}, DType::f32);
    Draws draw(2);
    fill(parameters.list[0].gradient, draw);
    Muon optimizer(parameters.list, {.newton_schulz = {.operands = operands}});
    optimizer.step(stream, {.step = 1, .learning_rate = 1});
    after.emplace_back(parameters.list[0].master);
  }
  EXPECT_GT((after[0] - after[1]).norm(), 0);
  EXPECT_LT((after[0] - after[1]).norm(), 0.03 * after[0].norm());
}

TEST(Muon, SameBitsWithAnyNumberOfThreads) {
  const auto bits = [](int threads) {
    Stream stream(threads);
    const Parameters parameters({{300, 70, true}, {20, 500, true}}, DType::bf16);
    Draws draw(3);
    for (const OptimizedParameter& parameter : parameters.list) fill(parameter.master, draw);
    Muon optimizer(parameters.list, {.row_beta2 = 0.95});
    for (int64_t step = 1; step <= 2; ++step) {
      for (const OptimizedParameter& parameter : parameters.list) fill(parameter.gradient, draw);
      optimizer.step(stream, {.step = step, .learning_rate = 1e-2});
    }
    return testing::bits_of(optimizer, parameters);
  };
  const std::vector<uint32_t> one = bits(1);
  for (const int threads : {2, 3, 8}) EXPECT_EQ(bits(threads), one);
}

TEST(Muon, ZeroGradientOnlyDecays) {
  Stream stream(1);
  const Parameters parameters({{5, 3, true}}, DType::f32);
  for (int i = 0; i < 15; ++i) parameters.master(0)[i] = 1.5f;
  Muon optimizer(parameters.list, {.weight_decay = 0.25, .row_beta2 = 0.95});
  optimizer.step(stream, {.step = 1, .learning_rate = 0.5});
  for (int i = 0; i < 15; ++i) EXPECT_EQ(parameters.master(0)[i], 1.5f * 0.875f);
}

TEST(Muon, StateHasTheParametersShapes) {
  const Parameters parameters({{5, 7, true}}, DType::bf16);
  StateList plain, rows;
  Muon(parameters.list, {}).state(plain);
  ASSERT_EQ(plain.entries().size(), 1u);
  EXPECT_EQ(plain.entries()[0].name, "optimizer/momentum/parameter0");
  EXPECT_EQ(plain.entries()[0].rows, 5);
  EXPECT_EQ(plain.entries()[0].cols, 7);
  Muon normalizes(parameters.list, {.row_beta2 = 0.95});
  normalizes.state(rows);
  ASSERT_EQ(rows.entries().size(), 2u);
  EXPECT_EQ(rows.entries()[1].name, "optimizer/row_second_moment/parameter0");
  EXPECT_EQ(rows.entries()[1].rows, 5);
  EXPECT_EQ(rows.entries()[1].cols, 1);
}

TEST(Muon, ConstantsOutOfRangeAreRefused) {
  const Parameters parameters({{2, 2}}, DType::f32);
  EXPECT_THROW(Muon(parameters.list, {.momentum = 1}), Error);
  EXPECT_THROW(Muon(parameters.list, {.momentum = std::nan("")}), Error);
  EXPECT_THROW(Muon(parameters.list, {.weight_decay = -1}), Error);
  EXPECT_THROW(Muon(parameters.list, {.row_beta2 = 1.0}), Error);
  EXPECT_THROW(Muon(parameters.list, {.newton_schulz = {.steps = 0}}), Error);
}

}  // namespace
}  // namespace nibble
