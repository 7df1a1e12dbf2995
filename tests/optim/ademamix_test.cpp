// AdEMAMix (and AdamW, which it is without a slow moment) against worked values and an implementation in double.
#include "optim/ademamix.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "optim/adamw.hpp"
#include "tensor/error.hpp"
#include "tests/optim/parameters.hpp"

namespace nibble {
namespace {

using testing::Draws;
using testing::Parameters;

// Reference 6.4.
TEST(AdEMAMix, HalfLifeOfTheSlowMomentGrowsInAStraightLine) {
  const AdEMAMixSettings settings{.beta3 = .9999, .alpha = 8, .warmup = 100000};
  EXPECT_NEAR(ademamix_beta3(settings, 1000), .99090099, 1e-8);
  EXPECT_NEAR(ademamix_beta3(settings, 10000), .99900901, 1e-8);
  EXPECT_NEAR(ademamix_beta3(settings, 50000), .99980022, 1e-8);
  EXPECT_EQ(ademamix_beta3(settings, 100000), .9999);
  EXPECT_EQ(ademamix_beta3(settings, 200000), .9999);
  EXPECT_DOUBLE_EQ(ademamix_alpha(settings, 25000), 2);
  EXPECT_EQ(ademamix_alpha(settings, 200000), 8);
  EXPECT_EQ(ademamix_alpha({.alpha = 3}, 1), 3);
  EXPECT_EQ(ademamix_beta3({.beta3 = 0.5}, 1), 0.5);
}

struct Moments {
  double first = 0, slow = 0, second = 0;
};

double stepped(double w, double g, Moments& m, const AdEMAMixSettings& s, int64_t t, double rate, bool decay) {
  const double part = std::min(1.0, static_cast<double>(t) / static_cast<double>(s.warmup));
  const auto life = [](double beta) { return std::log(0.5) / std::log(beta + 1e-8) - 1; };
  const double beta3 = std::pow(0.5, 1 / (1 + (1 - part) * life(s.beta1) + part * life(s.beta3)));
  m.first = s.beta1 * m.first + (1 - s.beta1) * g;
  m.slow = beta3 * m.slow + (1 - beta3) * g;
  m.second = s.beta2 * m.second + (1 - s.beta2) * g * g;
  const double first = m.first / (1 - std::pow(s.beta1, t)), second = m.second / (1 - std::pow(s.beta2, t));
  return w - rate * ((first + s.alpha * part * m.slow) / (std::sqrt(second) + s.epsilon) +
                     (decay ? s.weight_decay : 0) * w);
}

TEST(AdEMAMix, TenStepsAsInDouble) {
  Stream stream(2);
  const AdEMAMixSettings settings{.warmup = 6};
  const Parameters parameters({{5, 48, true}, {1, 37, false}, {70, 70, true}}, DType::bf16);
  AdEMAMix optimizer(parameters.list, settings);
  Draws draw(8);
  std::vector<std::vector<double>> weights;
  std::vector<std::vector<Moments>> moments;
  for (const OptimizedParameter& parameter : parameters.list) {
    weights.emplace_back();
    for (int64_t j = 0; j < parameter.master.size(); ++j)
      weights.back().push_back(parameter.master.as<float>()[j] = draw());
    moments.emplace_back(weights.back().size());
  }
  for (int64_t t = 1; t <= 10; ++t) {
    const double rate = 1e-3 * static_cast<double>(t);
    for (size_t i = 0; i < weights.size(); ++i)
      for (size_t j = 0; j < weights[i].size(); ++j) {
        const float g = parameters.gradient(i)[j] = 2 * draw();
        weights[i][j] = stepped(weights[i][j], g / 2, moments[i][j], settings, t, rate, parameters.list[i].decay);
      }
    optimizer.step(stream, {.step = t, .learning_rate = rate, .gradient_scale = 0.5});
  }
  for (size_t i = 0; i < weights.size(); ++i)
    for (size_t j = 0; j < weights[i].size(); ++j) {
      const float seen = parameters.master(i)[j];
      ASSERT_NEAR(seen, weights[i][j], 1e-5) << i << "," << j;
      const auto cols = static_cast<size_t>(parameters.list[i].info->cols);
      const bf16 working = parameters.list[i].working.row<bf16>(static_cast<int64_t>(j / cols))[j % cols];
      ASSERT_EQ(working.bits, bf16(seen).bits);
    }
}

TEST(AdEMAMix, WithoutASlowMomentItIsAdamW) {
  Stream stream(1);
  const Parameters one({{3, 50, true}}, DType::f32), other({{3, 50, true}}, DType::f32);
  AdEMAMix mixed(one.list, {.beta2 = 0.95, .alpha = 0});
  AdamW adamw(other.list, {.beta2 = 0.95});
  Draws draw(9);
  for (int64_t t = 1; t <= 3; ++t) {
    for (int j = 0; j < 150; ++j) one.gradient(0)[j] = other.gradient(0)[j] = draw();
    mixed.step(stream, {.step = t, .learning_rate = 1e-2});
    adamw.step(stream, {.step = t, .learning_rate = 1e-2});
  }
  for (int j = 0; j < 150; ++j) EXPECT_EQ(one.master(0)[j], other.master(0)[j]);
}

TEST(AdEMAMix, StateHasThreeMoments) {
  const Parameters parameters({{5, 7, true}}, DType::bf16);
  AdEMAMix optimizer(parameters.list, {});
  StateList list;
  optimizer.state(list);
  ASSERT_EQ(list.entries().size(), 3u);
  EXPECT_EQ(list.entries()[1].name, "optimizer/slow_moment/parameter0");
  EXPECT_EQ(list.bytes(), 3 * 4 * 35u);
}

TEST(AdEMAMix, ConstantsOutOfRangeAreRefused) {
  EXPECT_THROW(AdEMAMix({}, {.beta1 = 1}), Error);
  EXPECT_THROW(AdEMAMix({}, {.beta3 = 1}), Error);
  EXPECT_THROW(AdEMAMix({}, {.alpha = std::nan("")}), Error);
  EXPECT_THROW(AdEMAMix({}, {.epsilon = 0}), Error);
  EXPECT_THROW(AdEMAMix({}, {.weight_decay = -1}), Error);
  EXPECT_NO_THROW(AdEMAMix({}, {.beta1 = 0, .beta3 = 0, .warmup = 1}));
}

}  // namespace
}  // namespace nibble
