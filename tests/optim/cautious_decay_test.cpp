// Cautious weight decay in every optimizer, against the same steps in plain double.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>

#include "optim/adamw.hpp"
#include "optim/ademamix.hpp"
#include "optim/muon.hpp"
#include "optim/sgd.hpp"
#include "optim/update_meter.hpp"
#include "tests/optim/parameters.hpp"

namespace nibble {
namespace {

using testing::Draws;
using testing::Parameters;

constexpr double learning_rate = 1e-2, weight_decay = 4;
constexpr int64_t steps = 6, rows = 61, cols = 77;  // more than one block, no whole groups

/// The update of one element (before the learning rate) from its gradient: once a step, each element its own.
using Update = std::function<double(double gradient, int64_t step)>;

double decayed(double w, double update) { return update * w >= 0 ? w * (1 - learning_rate * weight_decay) : w; }

/// Steps on random gradients; returns how many decays the rule left out, of elements that decay.
int64_t compare(const std::function<std::unique_ptr<Optimizer>(std::vector<OptimizedParameter>)>& make,
                const std::function<Update()>& update_of_an_element) {
  Stream stream(2);
  Parameters parameters({{rows, cols, true}, {3, 5, false}}, DType::f32);
  Draws draw(9);
  std::vector<std::vector<double>> expected;
  std::vector<std::vector<Update>> updates;
  for (size_t i = 0; i < parameters.list.size(); ++i) {
    parameters.list[i].cautious = true;
    expected.emplace_back();
    updates.emplace_back();
    for (int64_t j = 0; j < parameters.list[i].master.size(); ++j) {
      parameters.master(i)[j] = draw();
      expected[i].push_back(parameters.master(i)[j]);
      updates[i].push_back(update_of_an_element());
    }
  }
  const std::unique_ptr<Optimizer> optimizer = make(parameters.list);
  int64_t left_out = 0;
  for (int64_t step = 1; step <= steps; ++step) {
    for (size_t i = 0; i < parameters.list.size(); ++i)
      for (size_t j = 0; j < expected[i].size(); ++j) {
        parameters.gradient(i)[j] = draw();
        const double update = updates[i][j](0.5 * parameters.gradient(i)[j], step);
        double& w = expected[i][j];
        if (parameters.list[i].decay) {
          left_out += update * w < 0;
          w = decayed(w, update);
        }
        w -= learning_rate * update;
      }
    optimizer->step(stream, {.step = step, .learning_rate = learning_rate, .gradient_scale = 0.5});
  }
  for (size_t i = 0; i < expected.size(); ++i)
    for (size_t j = 0; j < expected[i].size(); ++j) {
      EXPECT_NEAR(parameters.master(i)[j], expected[i][j], 2e-6) << i << ", " << j;
      EXPECT_EQ(parameters.list[i].working.row<float>(
                    static_cast<int64_t>(j) /
                    parameters.list[i].master.cols)[static_cast<int64_t>(j) % parameters.list[i].master.cols],
                parameters.master(i)[j]);
    }
  return left_out;
}

void expect_about_half(int64_t left_out) {
  EXPECT_GT(left_out, steps * rows * cols / 3);
  EXPECT_LT(left_out, steps * rows * cols * 2 / 3);
}

TEST(CautiousDecay, OfAdamW) {
  expect_about_half(compare(
      [](std::vector<OptimizedParameter> list) {
        return std::make_unique<AdamW>(std::move(list), AdamWSettings{.weight_decay = weight_decay});
      },
      [] {
        return [m = 0.0, v = 0.0](double g, int64_t step) mutable {
          m = 0.9 * m + 0.1 * g;
          v = 0.95 * v + 0.05 * g * g;
          const auto t = static_cast<double>(step);
          return m / (1 - std::pow(0.9, t)) / (std::sqrt(v / (1 - std::pow(0.95, t))) + 1e-8);
        };
      }));
}

TEST(CautiousDecay, OfAdEMAMix) {
  expect_about_half(compare(
      [](std::vector<OptimizedParameter> list) {
        return std::make_unique<AdEMAMix>(
            std::move(list), AdEMAMixSettings{.beta2 = 0.95, .beta3 = 0.99, .alpha = 5, .weight_decay = weight_decay});
      },
      [] {
        return [m = 0.0, slow = 0.0, v = 0.0](double g, int64_t step) mutable {
          m = 0.9 * m + 0.1 * g;
          slow = 0.99 * slow + 0.01 * g;
          v = 0.95 * v + 0.05 * g * g;
          const auto t = static_cast<double>(step);
          return (m / (1 - std::pow(0.9, t)) + 5 * slow) / (std::sqrt(v / (1 - std::pow(0.95, t))) + 1e-8);
        };
      }));
}

TEST(CautiousDecay, OfSgd) {
  expect_about_half(compare(
      [](std::vector<OptimizedParameter> list) {
        return std::make_unique<Sgd>(std::move(list), SgdSettings{.momentum = 0.9, .weight_decay = weight_decay});
      },
      [] { return [m = 0.0](double g, int64_t) mutable { return m = 0.9 * m + g; }; }));
}

// What Muon, NorMuon and MARS-M do with what they have orthogonalised; and that its length is measured without the
// decay.
TEST(CautiousDecay, OfMatrices) {
  Stream stream(2);
  Parameters parameters({{rows, cols, true}}, DType::f32), before({{rows, cols, true}}, DType::f32);
  const OwnedTensor direction(DType::f32, rows, cols);
  Draws draw(4);
  UpdateMeter meter({*parameters.list[0].info});
  meter.start();
  parameters.list[0].cautious = true;
  parameters.list[0].meter = &meter;
  for (int64_t j = 0; j < rows * cols; ++j) {
    parameters.master(0)[j] = before.master(0)[j] = draw();
    direction.view().as<float>()[j] = draw();
  }
  descend(stream, parameters.list[0], direction, muon_scale(MuonScale::moonlight, rows, cols), weight_decay,
          learning_rate);
  double squares = 0;
  for (int64_t j = 0; j < rows * cols; ++j) {
    const double update = 0.2 * std::sqrt(77.0) * direction.view().as<float>()[j], w = before.master(0)[j];
    EXPECT_NEAR(parameters.master(0)[j], decayed(w, update) - learning_rate * update, 1e-6) << j;
    squares += update * update;
  }
  const double measured = meter.squares()[0] + meter.squares()[1];
  EXPECT_NEAR(std::sqrt(measured / squares) / learning_rate, 1, 1e-4);
}

}  // namespace
}  // namespace nibble
