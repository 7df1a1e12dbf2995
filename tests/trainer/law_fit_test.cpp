// Fits of published data against published constants and scipy's, and of made-up data against what made it.
#include "trainer/law_fit.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/trainer/expect_error.hpp"
#include "trainer/fit_output.hpp"
#include "trainer/law_minimum.hpp"

namespace nibble {
namespace {

FitPoints table(const std::string& name) {
  FitPoints points;
  read_point_table(NIBBLE_TEST_DATA "/trainer/data/scaling/" + name, points);
  return points;
}

double constant(const LawFit& fit, const std::string& name) {
  for (const FittedConstant& constant : fit.constants)
    if (constant.name == name) return constant.value;
  ADD_FAILURE() << name;
  return 0;
}

class LawFitTest : public testing::Test {
 protected:
  Stream stream_{1};
};

TEST_F(LawFitTest, QuartetsDataGiveQuartetsConstants) {
  const LawFit fit = fit_law(stream_, table("quartet.csv"), {.law = "quartet", .bootstrap = 0});
  // The authors' notebook.
  EXPECT_NEAR(constant(fit, "E"), 1.3408, 5e-5);
  EXPECT_NEAR(constant(fit, "gamma"), 0.2764, 5e-5);
  EXPECT_NEAR(constant(fit, "alpha"), 0.578520, 5e-6);
  EXPECT_NEAR(constant(fit, "beta"), 0.538877, 5e-6);
  EXPECT_NEAR(constant(fit, "A"), 127444.7, 0.5);
  EXPECT_NEAR(constant(fit, "B"), 465834.3, 0.5);
  ASSERT_EQ(fit.efficiencies.size(), 2u);
  EXPECT_EQ(fit.efficiencies[0].of, (EfficiencyName{"quartet", false}));
  EXPECT_NEAR(fit.efficiencies[0].value, 0.6452, 5e-5);
  EXPECT_EQ(fit.efficiencies[1].of, (EfficiencyName{"mxfp4-rtn", true}));
  EXPECT_NEAR(fit.efficiencies[1].value, 0.9281, 5e-5);
  // scipy 1.17.1 (numpy 2.4.6), least_squares(loss='huber', f_scale=1e-4), best of 60 starts.
  EXPECT_NEAR(fit.cost, 2.1292178288764912e-06, 1e-16);
  EXPECT_NEAR(fit.residuals.rms, 0.00141721180536878, 1e-8);
  EXPECT_NEAR(fit.residuals.largest, 0.00448742485707565, 1e-8);
  EXPECT_NEAR(fit.efficiencies[0].value, 0.6451631816652701, 1e-7);
  EXPECT_NEAR(fit.efficiencies[1].value, 0.9280698038048214, 1e-7);
  EXPECT_EQ(fit.starts, 128);
  EXPECT_GT(fit.reached, 100);
  EXPECT_TRUE(fit.warnings.empty()) << fit.warnings.front();
}

TEST_F(LawFitTest, ChinchillaOnQuartetsDataAsScipyHasIt) {
  const LawFit fit = fit_law(stream_, table("quartet.csv"), {.law = "chinchilla", .bootstrap = 0});
  // The same scipy, f_scale=1e-3.
  EXPECT_NEAR(fit.cost, 6.791946576635982e-05, 1e-15);
  EXPECT_NEAR(constant(fit, "A"), 12.7395191, 1e-5);
  EXPECT_NEAR(constant(fit, "alpha"), 0.11973962, 1e-7);
  EXPECT_NEAR(constant(fit, "B"), 301.67009609, 1e-3);
  EXPECT_NEAR(constant(fit, "beta"), 0.30813792, 1e-7);
  EXPECT_NEAR(constant(fit, "E"), 1.23890821, 1e-6);
  EXPECT_NEAR(fit.residuals.rms, 0.004828802339056386, 1e-8);
  EXPECT_EQ(fit.left_out.size(), table("quartet.csv").points.size() - 24);
}

double efficiency(const LawFit& fit, const EfficiencyName& name) {
  for (const FittedEfficiency& efficiency : fit.efficiencies)
    if (efficiency.of == name) return efficiency.value;
  ADD_FAILURE() << name.recipe;
  return 0;
}

TEST_F(LawFitTest, QuestsEfficienciesAtTheNotebooksConstants) {
  const LawFit fit =
      fit_law(stream_, table("quest.csv"),
              {.law = "quest",
               .bootstrap = 0,
               .fixed = {{"A", 8.134}, {"alpha", .062727}, {"B", 86.41}, {"beta", .24129}, {"E", .00142}}});
  // The notebook fitted them, together with the constants, to 104 runs: 0.6918 and 0.0205.
  EXPECT_NEAR(efficiency(fit, {"quest-w4a4"}), .6918, .04 * .6918);
  EXPECT_NEAR(efficiency(fit, {"quest-w1a1"}), .0205, .04 * .0205);
  // scipy on these 18.
  EXPECT_NEAR(efficiency(fit, {"quest-w4a4"}), .71545758, 1e-6);
  EXPECT_NEAR(efficiency(fit, {"quest-w1a1"}), .01969342, 1e-7);
  EXPECT_NEAR(fit.cost, 3.2812492737704205e-05, 1e-14);
  EXPECT_NEAR(fit.efficiencies[0].capacity.value(), .672, 1e-3);
  EXPECT_NEAR(fit.efficiencies[1].capacity.value(), .032, 1e-3);
}

TEST_F(LawFitTest, QuestsLawFittedAtOnceAsScipyHasIt) {
  const LawFit fit = fit_law(stream_, table("quest.csv"), {.law = "quest", .bootstrap = 0, .fixed = {{"E", .00142}}});
  EXPECT_NEAR(fit.cost, 2.0836882120110954e-05, 1e-14);
  EXPECT_NEAR(constant(fit, "A"), 4.50408253, 1e-4);
  EXPECT_NEAR(constant(fit, "alpha"), .04394757, 1e-6);
  EXPECT_NEAR(constant(fit, "B"), 50.2056847, 1e-2);
  EXPECT_NEAR(constant(fit, "beta"), .17531511, 1e-5);
  EXPECT_NEAR(efficiency(fit, {"quest-w4a4"}), .530872348, 1e-5);
  // All at one ratio: far from what the whole of QuEST's data says, and the fit says why.
  ASSERT_FALSE(fit.warnings.empty());
  EXPECT_NE(fit.warnings[0].find("one ratio of tokens to parameters (98.4"), std::string::npos) << fit.warnings[0];
}

/// A grid of sizes and lengths under a recipe, with no losses yet.
void add_grid(FitPoints& points, const std::string& forward, const std::string& backward,
              const FormatFacts& given = {}) {
  for (const double parameters : {2e5, 1e6, 5e6, 2e7})
    for (const double ratio : {10.0, 40.0, 160.0, 400.0})
      points.points.push_back({.run = forward + "-" + backward,
                               .parameters = parameters,
                               .tokens = ratio * parameters,
                               .loss = 1,
                               .forward = forward,
                               .backward = backward,
                               .given = given});
}

double chinchilla(double parameters, double tokens) {
  return 1.7 + 90 / std::pow(parameters, .3) + 300 / std::pow(tokens, .34);
}

TEST_F(LawFitTest, AnEntropyThatAllRunsKnowIsE) {
  FitPoints points;
  add_grid(points, "bf16", "bf16");
  for (FitPoint& p : points.points) {
    p.loss = chinchilla(p.parameters, p.tokens);
    p.entropy = 1.65;  // not what the losses say, so that it is seen which was taken
  }
  const auto fit = [&](const std::map<std::string, double>& fixed = {}) {
    return fit_law(stream_, points, {.law = "chinchilla", .starts = 100, .bootstrap = 0, .fixed = fixed});
  };
  const LawFit known = fit();
  EXPECT_NEAR(constant(known, "E"), 1.65, 1e-12);
  EXPECT_TRUE(known.constants[law_e].fixed);
  EXPECT_EQ(known.entropy, 1.65);
  EXPECT_NE(fit_text(known).find("entropy  of the synthetic language of all runs: E is fixed at it"),
            std::string::npos);
  EXPECT_EQ(fit_json(known)["entropy"], 1.65);

  const LawFit told = fit({{"E", 1.7}});
  EXPECT_NEAR(constant(told, "E"), 1.7, 1e-12);
  EXPECT_EQ(told.entropy, std::nullopt);

  for (const std::optional<double> other : {std::optional(1.5), std::optional<double>()}) {
    points.points.back().entropy = other;
    const LawFit disagreeing = fit();
    EXPECT_NEAR(constant(disagreeing, "E"), 1.7, 1e-3);
    EXPECT_FALSE(disagreeing.constants[law_e].fixed);
    EXPECT_EQ(disagreeing.entropy, std::nullopt);
    ASSERT_FALSE(disagreeing.warnings.empty());
    EXPECT_NE(disagreeing.warnings.back().find("do not have one entropy"), std::string::npos);
  }
}

TEST_F(LawFitTest, LawsOfFormatsFindWhatMadeTheLosses) {
  const auto fitted = [&](const std::string& law, FitPoints points, const auto& loss) {
    for (FitPoint& point : points.points) point.loss = loss(point);
    return fit_law(stream_, points, {.law = law, .bootstrap = 0});
  };
  FitPoints formats;
  add_grid(formats, "bf16", "bf16");
  int number = 0;
  for (const double bits : {2.0, 4.0, 8.0})
    add_grid(formats, "format" + std::to_string(number++), "bf16",
             {.bits = {bits, 2 * bits},
              .errors = {std::pow(4, -bits), std::pow(4, -bits / 2)},
              .exponent_bits = bits / 2,
              .mantissa_bits = bits - bits / 2 - 1,
              .block = 32 * bits});
  const auto common = [&](const LawFit& fit) {
    EXPECT_NEAR(constant(fit, fit.constants[0].name), 90, .01);
    EXPECT_NEAR(constant(fit, "alpha"), .3, 1e-5);
    EXPECT_NEAR(constant(fit, "beta"), .34, 1e-5);
    EXPECT_NEAR(fit.constants[4].value, 1.7, 1e-4);
    EXPECT_GT(fit.reached, 10);
  };
  const LawFit precision = fitted("precision", formats, [](const FitPoint& p) {
    const double weight = p.given.bits[0].value_or(16), input = p.given.bits[1].value_or(16);
    return chinchilla(p.parameters * (1 - std::exp(-weight / 2.7)) * (1 - std::exp(-input / 2.2)), p.tokens);
  });
  common(precision);
  EXPECT_NEAR(constant(precision, "gamma_w"), 2.7, 1e-3);
  EXPECT_NEAR(constant(precision, "gamma_a"), 2.2, 1e-3);

  const LawFit by_capacity = fitted("capacity", formats, [](const FitPoint& p) {
    double kept = 1;
    for (const std::optional<double>& error : p.given.errors)
      if (error) kept *= .95 * std::pow(std::tanh(.41 * std::log(*error) / std::log(.25)), 1.39);
    return chinchilla(p.parameters * kept, p.tokens);
  });
  common(by_capacity);
  EXPECT_NEAR(constant(by_capacity, "L_sat"), .95, 1e-4);
  EXPECT_NEAR(constant(by_capacity, "F"), .41, 1e-4);
  EXPECT_NEAR(constant(by_capacity, "C"), 1.39, 1e-3);

  const LawFit rounding = fitted("fp-quantization", formats, [](const FitPoint& p) {
    const double plain = chinchilla(p.parameters, p.tokens);
    if (!p.given.block) return plain;
    return plain + std::pow(p.tokens, .34) / std::pow(p.parameters, .3) * std::log2(*p.given.block) /
                       (4000 * std::pow(*p.given.exponent_bits + .5, 3.2) * std::pow(*p.given.mantissa_bits + .5, 2.9));
  });
  common(rounding);
  EXPECT_NEAR(constant(rounding, "gamma"), 4000, 4);
  EXPECT_NEAR(constant(rounding, "delta"), 3.2, 1e-3);
  EXPECT_NEAR(constant(rounding, "nu"), 2.9, 1e-3);
}

/// Quartet's form with eff_N 0.6 and eff_D 0.9; fully quantized losses are off by a factor.
FitPoints product_form(double factor) {
  FitPoints points;
  add_grid(points, "bf16", "bf16");
  add_grid(points, "f", "bf16");
  add_grid(points, "bf16", "b");
  add_grid(points, "f", "b");
  add_grid(points, "g", "b");
  for (FitPoint& p : points.points) {
    const double n = p.parameters * (p.forward == "f" ? .6 : 1), d = p.tokens * (p.backward == "b" ? .9 : 1);
    p.loss = std::pow(3e4 / std::pow(n, .55) + 1e5 / std::pow(d, .5), .3) + 1.4;
    if (p.forward == "f" && p.backward == "b") p.loss *= factor;
  }
  return points;
}

TEST_F(LawFitTest, FullyQuantizedRunsTestTheProductForm) {
  const LawFit fit = fit_law(stream_, product_form(1.01), {.law = "quartet", .bootstrap = 0});
  EXPECT_NEAR(constant(fit, "E"), 1.4, 1e-4);
  EXPECT_NEAR(efficiency(fit, {"f"}), .6, 1e-5);
  EXPECT_NEAR(efficiency(fit, {"b", true}), .9, 1e-5);
  ASSERT_TRUE(fit.held_out);
  EXPECT_EQ(fit.held_out->runs, 16u);
  EXPECT_NEAR(fit.held_out->mean, -std::log(1.01), 1e-6);
  EXPECT_NEAR(fit.held_out->rms, std::log(1.01), 1e-6);
  ASSERT_EQ(fit.left_out.size(), 16u);  // nothing is known of g alone
  EXPECT_NE(fit.left_out[0].why.find("g forward, b backward"), std::string::npos);
}

TEST_F(LawFitTest, LargeRunsAreHeldOut) {
  const LawFit fit = fit_law(stream_, product_form(1), {.law = "quartet", .bootstrap = 0, .hold_out_above = 1e7});
  EXPECT_EQ(fit.residuals.runs, 12u);
  EXPECT_EQ(fit.held_out->runs, 16u + 4 + 4 + 4);
  EXPECT_LT(fit.held_out->largest, 1e-5);
}

TEST_F(LawFitTest, ResamplesAreTheSameWithAnyThreadsAndCoverTheNoise) {
  FitPoints points;
  add_grid(points, "bf16", "bf16");
  add_grid(points, "bf16", "bf16");
  int number = 0;
  for (FitPoint& p : points.points)  // two seeds, 0.4% apart
    p.loss = chinchilla(p.parameters, p.tokens) * (number++ < 16 ? 1.002 : .998);
  const LawFitOptions options{.law = "chinchilla", .starts = 100, .bootstrap = 40};
  const LawFit fit = fit_law(stream_, points, options);
  Stream two(2);
  const LawFit again = fit_law(two, points, options);
  EXPECT_EQ(fit.resamples, 40);
  for (size_t i = 0; i < fit.constants.size(); ++i) {
    EXPECT_EQ(fit.constants[i].value, again.constants[i].value);
    EXPECT_EQ(fit.constants[i].interval, again.constants[i].interval);
  }
  const Interval e = fit.constants[4].interval.value();
  EXPECT_LT(e.low, 1.7);
  EXPECT_GT(e.high, 1.7);
  EXPECT_GT(e.high - e.low, 1e-3);
  EXPECT_LT(e.high - e.low, 0.2);
  EXPECT_EQ(fit.noise_degrees, 16u);
  EXPECT_NEAR(fit.noise.value(), std::sqrt(2) * .002, 1e-6);  // two values 0.004 apart
}

TEST_F(LawFitTest, WhatTheRunsDoNotTellIsSaid) {
  FitPoints points;
  for (const double tokens : {1e7, 3e7, 1e8, 3e8, 1e9})
    points.points.push_back({.run = "", .parameters = 1e6, .tokens = tokens, .loss = chinchilla(1e6, tokens)});
  const LawFit fit = fit_law(stream_, points, {.law = "chinchilla", .bootstrap = 10});
  const auto warned = [&](const std::string& text) {
    for (const std::string& warning : fit.warnings)
      if (warning.find(text) != std::string::npos) return true;
    return false;
  };
  EXPECT_TRUE(warned("have one size"));
  EXPECT_TRUE(warned("do not determine A, alpha, E"));
  EXPECT_TRUE(warned("resamples had fewer different runs"));
}

TEST_F(LawFitTest, WhereAllIsKnownNothingIsFitted) {
  const std::map<std::string, double> besiroglu = {
      {"A", 482.01}, {"alpha", .3478}, {"B", 2085.43}, {"beta", .3658}, {"E", 1.8172}};
  FitPoints one;
  one.points.push_back({.run = "", .parameters = 2.778e9, .tokens = 5.999e10, .loss = 2.3055 / 1.01});
  const LawFit fit = fit_law(stream_, one, {.law = "chinchilla", .fixed = besiroglu});
  EXPECT_NEAR(fit.points[0].predicted, 2.3055, 1e-4);
  EXPECT_NEAR(fit.points[0].residual, std::log(1.01), 1e-4);
  EXPECT_NEAR(fit.cost, 1e-3 * std::log(1.01) - 1e-6 / 2, 1e-7);
  one.points[0].loss = 1.8;
  const LawFit below = fit_law(stream_, one, {.law = "chinchilla", .fixed = besiroglu});
  EXPECT_NE(below.warnings.at(0).find("size"), std::string::npos);
  EXPECT_NE(below.warnings.back().find("E is 1.817, and a run's loss is 1.8"), std::string::npos);
}

TEST_F(LawFitTest, Refusals) {
  FitPoints quantized;
  add_grid(quantized, "f", "bf16");
  expect_error(ErrorKind::configuration, {"no run without quantization", "precision.recipe: bf16"},
               [&] { fit_law(stream_, quantized, {.law = "quartet"}); });
  FitPoints few;
  for (const double parameters : {1e6, 1e6, 2e6, 3e6, 4e6})
    few.points.push_back({.run = "", .parameters = parameters, .tokens = 1e8, .loss = 3});
  expect_error(ErrorKind::configuration, {"fewer runs", "5 runs to fit, 4 different", "at least 5"},
               [&] { fit_law(stream_, few, {.law = "chinchilla"}); });
  EXPECT_EQ(fit_law(stream_, few, {.law = "chinchilla", .bootstrap = 0, .fixed = {{"E", 1}}}).starts, 128);
  FitPoints one_format;
  add_grid(one_format, "bf16", "bf16");
  add_grid(one_format, "f", "bf16", {.errors = {.01, .01}});
  expect_error(ErrorKind::configuration, {"fewer formats", "1 different", "at least 3"},
               [&] { fit_law(stream_, one_format, {.law = "capacity"}); });
  for (const char* law : {"precision", "fp-quantization"})
    expect_error(ErrorKind::configuration, {"fewer formats", "0 different"},
                 [&] { fit_law(stream_, one_format, {.law = law}); });
}

}  // namespace
}  // namespace nibble
