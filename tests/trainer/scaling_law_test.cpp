// Laws at published constants, and their gradients against differences.
#include "trainer/scaling_law.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/trainer/expect_error.hpp"
#include "trainer/capacity.hpp"
#include "trainer/law_minimum.hpp"

namespace nibble {
namespace {

/// By the constants as papers print them.
std::vector<double> values_of(const std::vector<double>& constants) {
  std::vector<double> values;
  for (const double constant : constants) values.push_back(std::log(constant));
  return values;
}

LawPoint at(double parameters, double tokens) {
  return {.log_parameters = std::log(parameters), .log_tokens = std::log(tokens), .log_loss = 1};
}

double loss(const char* law, const LawPoint& point, const std::vector<double>& constants) {
  return std::exp(law_log_loss(find_law(law), point, values_of(constants)));
}

TEST(ScalingLaw, ChinchillaAtPublishedConstants) {
  // Besiroglu et al., arXiv 2404.10102, and Hoffmann et al. at the compute-optimal sizes for 1e21 operations.
  EXPECT_NEAR(loss("chinchilla", at(2.778e9, 5.999e10), {482.01, .3478, 2085.43, .3658, 1.8172}), 2.3055, 1e-4);
  EXPECT_NEAR(loss("chinchilla", at(1.824e9, 9.136e10), {406.4, .34, 410.7, .28, 1.69}), 2.3289, 1e-4);
}

TEST(ScalingLaw, QuartetAtTheNotebooksConstants) {
  const std::vector<double> notebook = {127444.685, .578520, 465834.312, .538877, 1.340846, .276416};
  EXPECT_NEAR(loss("quartet", at(30482560, 2861 * 262144.0), notebook), 3.40042, 1e-5);
  EXPECT_NEAR(loss("quartet", at(822151168, 8e10), notebook), 2.46097, 1e-4);
  EXPECT_NEAR(loss("quartet", at(1e9, 2e10), notebook), 2.5688, 1e-4);
  LawPoint quantized = at(1e9, 2e10);
  quantized.parameter_efficiency = 6;
  quantized.data_efficiency = 7;
  std::vector<double> values = values_of(notebook);
  values.insert(values.end(), {std::log(.65), std::log(.95)});
  EXPECT_NEAR(std::exp(law_log_loss(find_law("quartet"), quantized, values)), 2.6091, 1e-4);
}

TEST(ScalingLaw, PrecisionAtFourBits) {
  // With alpha 1 and nothing but the term of N, loss A / N_eff: Kumar et al.'s factors 0.7759 and 0.8363.
  const auto factor = [](double weight, double input) {
    LawPoint point = at(1, 1);
    point.bits = {weight, input};
    return 1 / loss("precision", point, {1, 1, 1e-300, .5, 1e-300, 2.6745, 2.2102});
  };
  EXPECT_NEAR(factor(4, 1e9), .7759, 5e-5);
  EXPECT_NEAR(factor(1e9, 4), .8363, 5e-5);
  EXPECT_NEAR(factor(4, 4), .7759 * .8363, 1e-4);
  EXPECT_NEAR(factor(8, 8), .950 * .973, 1e-3);
}

TEST(ScalingLaw, ExcessOfRoundingAtCapybarasConstants) {
  const std::vector<double> capybara = {69.2343, .2368, 68973.0621, .5162, 1.9061, 11334.5197, 3.1926, 2.9543};
  const auto excess = [&](double exponent, double mantissa, double block) {
    LawPoint point = at(1e9, 2e10);
    const double base = loss("fp-quantization", point, capybara);
    EXPECT_NEAR(base, 2.7500, 1e-4);
    point.rounded = true;
    point.exponent_bits = exponent;
    point.mantissa_bits = mantissa;
    point.log_block = std::log2(block);
    return loss("fp-quantization", point, capybara) - base;
  };
  EXPECT_NEAR(excess(2, 1, 32), .01097, 1e-5);
  EXPECT_NEAR(excess(2, 1, 16), .00877, 1e-5);
  EXPECT_NEAR(excess(2, 1, 128), .01535, 1e-5);
  EXPECT_NEAR(excess(4, 3, 128), .00019, 1e-5);
}

TEST(ScalingLaw, CapacityIsAFactorOfTheParameters) {
  LawPoint point = at(1e8, 1e10);
  point.log_quarter_error = {log_quarter(.0115429), log_quarter(.0126849)};
  const std::vector<double> constants = {50, .2, 500, .3, 1.3, 1, .41, 1.39};
  const double direct = 50 / std::pow(1e8 * .8196 * .8103, .2) + 500 / std::pow(1e10, .3) + 1.3;
  EXPECT_NEAR(loss("capacity", point, constants), direct, 1e-4);
  EXPECT_DOUBLE_EQ(loss("capacity", at(1e8, 1e10), {50, .2, 500, .3, 1.3, .5, .41, 1.39}),
                   loss("chinchilla", at(1e8, 1e10), {50, .2, 500, .3, 1.3}));
}

TEST(ScalingLaw, GradientsAgreeWithDifferences) {
  for (const ScalingLaw& law : scaling_laws()) {
    for (int number = 0; number < 20; ++number) {
      LawPoint point = at(3e7, 2e9);
      point.log_loss = std::log(3.1);
      point.bits = {4, 8};
      point.log_quarter_error = {3.2, number % 2 == 0 ? 6.1 : 0.0};
      point.rounded = law.log_excess != nullptr;
      point.exponent_bits = 2;
      point.mantissa_bits = 3;
      point.log_block = 5;
      size_t count = law.constants.size();
      if (law.efficiency != FreeEfficiency::none) point.parameter_efficiency = count++;
      if (law.efficiency == FreeEfficiency::of_parameters_and_data) point.data_efficiency = count++;
      const std::vector<std::optional<double>> fixed(count);
      std::vector<double> values = law_start(law, std::span(&point, 1), start_uniforms(7, number, count), fixed);
      std::vector<double> gradient(count);
      EXPECT_DOUBLE_EQ(law_log_loss(law, point, values, gradient), law_log_loss(law, point, values));
      for (size_t i = 0; i < count; ++i) {
        const double there = values[i], step = 1e-5;
        values[i] = there + step;
        const double above = law_log_loss(law, point, values);
        values[i] = there - step;
        const double below = law_log_loss(law, point, values);
        values[i] = there;
        EXPECT_NEAR(gradient[i], (above - below) / (2 * step), 1e-8 * std::max(1.0, std::abs(gradient[i])))
            << law.name << " value " << i;
      }
    }
  }
}

TEST(ScalingLaw, StartsGiveBothTermsAShareOfTheLoss) {
  const ScalingLaw& law = find_law("quartet");
  const LawPoint point{.log_parameters = std::log(5e7), .log_tokens = std::log(4e9), .log_loss = std::log(3.0)};
  const std::vector<std::optional<double>> free(law.constants.size());
  for (int number = 0; number < 20; ++number) {
    const std::vector<double> start =
        law_start(law, std::span(&point, 1), start_uniforms(1, number, free.size()), free);
    EXPECT_NEAR(law_log_loss(law, point, start), point.log_loss, 1e-9);
  }
  std::vector<std::optional<double>> fixed = free;
  fixed[law_e] = std::log(1.5);
  fixed[law_a] = 4;
  const std::vector<double> start = law_start(law, std::span(&point, 1), start_uniforms(1, 0, free.size()), fixed);
  EXPECT_EQ(start[law_e], std::log(1.5));
  EXPECT_EQ(start[law_a], 4);
}

TEST(ScalingLaw, AnUnknownLawIsAnsweredWithTheNearest) {
  expect_error(ErrorKind::configuration, {"quatret", "did you mean 'quartet'?", "fp-quantization"},
               [] { find_law("quatret"); });
}

}  // namespace
}  // namespace nibble
