// The length of updates, measured beside the kernels, against what each optimizer's formula says.
#include "optim/update_meter.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "optim/adamw.hpp"
#include "optim/ademamix.hpp"
#include "optim/mars_m.hpp"
#include "optim/muon.hpp"
#include "optim/sgd.hpp"
#include "tests/optim/matrices.hpp"
#include "tests/optim/parameters.hpp"

namespace nibble {
namespace {

using testing::Draws;
using testing::Matrix;
using testing::Parameters;

using MakeOptimizer = std::function<std::unique_ptr<Optimizer>(const std::vector<OptimizedParameter>&)>;

constexpr double learning_rate = 1e-2, weight_decay = 3;

/// Two parameters of more than one block, one with decay; random masters and gradients; a meter.
struct Measured {
  Measured() : parameters({{70, 120, true}, {90, 50, false}}, DType::bf16), meter(infos(parameters)) {
    Draws draw(5);
    for (size_t i = 0; i < parameters.list.size(); ++i) {
      parameters.list[i].meter = &meter;
      parameters.list[i].number = static_cast<int>(i);
      for (int64_t j = 0; j < parameters.list[i].master.size(); ++j) {
        parameters.master(i)[j] = draw();
        parameters.gradient(i)[j] = draw();
      }
    }
  }
  static std::vector<ParameterInfo> infos(const Parameters& of) {
    std::vector<ParameterInfo> list;
    for (const OptimizedParameter& parameter : of.list) list.push_back(*parameter.info);
    return list;
  }

  void step(const MakeOptimizer& make, int threads = 2) {
    Stream stream(threads);
    const std::unique_ptr<Optimizer> optimizer = make(parameters.list);
    optimizer->step(stream, {.step = 1, .learning_rate = learning_rate, .gradient_scale = 0.5});
  }
  /// Of the update before the learning rate.
  double rms(size_t i) {
    double squares = 0;
    const int64_t size = parameters.list[i].master.size();
    for (int64_t first = 0; first < size; first += block_elements) squares += meter.squares(static_cast<int>(i), first);
    return std::sqrt(squares / static_cast<double>(size)) / learning_rate;
  }
  double rms_of_gradient(size_t i) const {
    double squares = 0;
    const Tensor& gradient = parameters.list[i].gradient;
    for (int64_t j = 0; j < gradient.size(); ++j) squares += std::pow(0.5 * gradient.as<float>()[j], 2);
    return std::sqrt(squares / static_cast<double>(gradient.size()));
  }

  Parameters parameters;
  UpdateMeter meter;
};

// The first update of Adam is the gradient's sign; that of AdEMAMix, with both moments at once, 1 + alpha (1 - beta3).
TEST(UpdateMeter, LengthsAreThoseOfTheFormulasWithoutDecay) {
  const MakeOptimizer adamw = [](const std::vector<OptimizedParameter>& list) {
    return std::make_unique<AdamW>(list, AdamWSettings{.weight_decay = weight_decay});
  };
  const MakeOptimizer ademamix = [](const std::vector<OptimizedParameter>& list) {
    return std::make_unique<AdEMAMix>(
        list, AdEMAMixSettings{.beta3 = 0.75, .alpha = 2, .warmup = 0, .weight_decay = weight_decay});
  };
  const MakeOptimizer sgd = [](const std::vector<OptimizedParameter>& list) {
    return std::make_unique<Sgd>(list, SgdSettings{.momentum = 0, .weight_decay = weight_decay});
  };
  Measured of_adamw, of_ademamix, of_sgd;
  for (Measured* measured : {&of_adamw, &of_ademamix, &of_sgd}) measured->meter.start();
  of_adamw.step(adamw);
  of_ademamix.step(ademamix);
  of_sgd.step(sgd);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_NEAR(of_adamw.rms(i), 1, 1e-5);
    EXPECT_NEAR(of_ademamix.rms(i), 1 + 2 * 0.25, 1e-5);
    EXPECT_NEAR(of_sgd.rms(i) / of_sgd.rms_of_gradient(i), 1, 1e-5);
    EXPECT_EQ(of_sgd.meter.orthogonality_errors()[i], -1);
  }
}

TEST(UpdateMeter, DirectionsOfMatricesAreMeasured) {
  constexpr NewtonSchulzSettings exact{.operands = DType::f32};
  const MakeOptimizer muon = [](const std::vector<OptimizedParameter>& list) {
    return std::make_unique<Muon>(list, MuonSettings{.weight_decay = weight_decay, .newton_schulz = exact});
  };
  const MakeOptimizer mars_m = [](const std::vector<OptimizedParameter>& list) {
    return std::make_unique<MarsM>(list, MarsMSettings{.weight_decay = weight_decay, .newton_schulz = exact});
  };
  for (const MakeOptimizer& make : {muon, mars_m}) {
    Measured measured;
    measured.meter.start();
    measured.step(make);
    for (size_t i = 0; i < 2; ++i) {
      // The direction of the first step is the gradient's.
      Stream stream(1);
      const Tensor& gradient = measured.parameters.list[i].gradient;
      const NewtonSchulz::Shape shape{gradient.rows, gradient.cols};
      const OwnedTensor direction = Matrix(gradient).tensor();
      NewtonSchulz(exact, {&shape, 1})(stream, direction);
      const Matrix o(direction.view());
      const auto size = static_cast<double>(gradient.size());
      const double scale = muon_scale(MuonScale::moonlight, gradient.rows, gradient.cols);
      EXPECT_NEAR(measured.rms(i) / (scale * o.norm() / std::sqrt(size)), 1, 1e-4);
      Matrix square = o.rows < o.cols ? o * o.transposed() : o.transposed() * o;
      for (int64_t j = 0; j < square.rows; ++j) square.at(j, j) -= 1;
      const double error = square.norm() / std::sqrt(static_cast<double>(square.rows));
      EXPECT_GT(error, 0.1);
      EXPECT_NEAR(measured.meter.orthogonality_errors()[i] / error, 1, 1e-3);
    }
  }
}

TEST(UpdateMeter, ChangesNoBitAndNoThreadChangesIts) {
  const MakeOptimizer adamw = [](const std::vector<OptimizedParameter>& list) {
    return std::make_unique<AdamW>(list, AdamWSettings{.weight_decay = weight_decay});
  };
  Measured off, one, five;
  one.meter.start();
  five.meter.start();
  off.step(adamw);
  one.step(adamw, 1);
  five.step(adamw, 5);
  for (size_t i = 0; i < 2; ++i)
    for (int64_t j = 0; j < off.parameters.list[i].master.size(); ++j)
      ASSERT_EQ(off.parameters.master(i)[j], one.parameters.master(i)[j]);
  for (size_t block = 0; block < one.meter.squares().size(); ++block) {
    EXPECT_GT(one.meter.squares()[block], 0);
    EXPECT_EQ(one.meter.squares()[block], five.meter.squares()[block]);
    EXPECT_EQ(off.meter.squares()[block], 0);
  }
}

}  // namespace
}  // namespace nibble
