#include "optim/schedule.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "tensor/error.hpp"

namespace nibble {
namespace {

TEST(Schedule, CosineReferenceVector) {
  // Reference 6.4: to 10 %, S = 1000, W = 100: half way down at step 550.
  const ScheduleSettings settings{.kind = ScheduleKind::cosine, .peak = 1, .steps = 1000, .warmup = 100};
  EXPECT_NEAR(learning_rate(settings, 550), 0.55, 1e-15);
  EXPECT_NEAR(learning_rate(settings, 0), 0.01, 1e-15);  // the first step moves the weights
  EXPECT_NEAR(learning_rate(settings, 49), 0.5, 1e-15);
  EXPECT_EQ(learning_rate(settings, 99), 1);
  EXPECT_EQ(learning_rate(settings, 100), 1);
  EXPECT_LT(learning_rate(settings, 101), 1);
  EXPECT_NEAR(learning_rate(settings, 999), 0.1, 1e-5);
  EXPECT_GT(learning_rate(settings, 999), 0.1);
  EXPECT_NEAR(learning_rate(settings, 1000), 0.1, 1e-15);
  EXPECT_NEAR(learning_rate(settings, 2000), 0.1, 1e-15);
}

TEST(Schedule, PeakScalesTheCurve) {
  const ScheduleSettings settings{.kind = ScheduleKind::cosine, .peak = 1.2e-3, .steps = 1000, .warmup = 100};
  EXPECT_NEAR(learning_rate(settings, 550), 0.55 * 1.2e-3, 1e-18);
}

TEST(Schedule, WsdReferenceVectors) {
  // Reference 6.4: 1-sqrt over the last 200 of 1000 steps: .5 at 850, .1339746 at 950.
  ScheduleSettings settings{
      .kind = ScheduleKind::wsd, .peak = 1, .steps = 1000, .warmup = 50, .final_fraction = 0, .cooldown = 200};
  EXPECT_NEAR(learning_rate(settings, 24), 0.5, 1e-15);
  EXPECT_EQ(learning_rate(settings, 50), 1);
  EXPECT_EQ(learning_rate(settings, 800), 1);
  EXPECT_NEAR(learning_rate(settings, 850), 0.5, 1e-15);
  EXPECT_NEAR(learning_rate(settings, 950), 0.1339746, 5e-8);
  EXPECT_EQ(learning_rate(settings, 1000), 0);
  settings.cooldown_shape = CooldownShape::linear;
  EXPECT_EQ(learning_rate(settings, 800), 1);
  EXPECT_NEAR(learning_rate(settings, 850), 0.75, 1e-15);
  EXPECT_NEAR(learning_rate(settings, 999), 0.005, 1e-15);
  settings.final_fraction = 0.2;
  EXPECT_NEAR(learning_rate(settings, 900), 0.6, 1e-15);
}

TEST(Schedule, WsdWithoutCooldownStaysAtThePeak) {
  const ScheduleSettings settings{.kind = ScheduleKind::wsd, .peak = 1, .steps = 10, .warmup = 2, .cooldown = 0};
  for (int64_t step = 1; step < 10; ++step) EXPECT_EQ(learning_rate(settings, step), 1);
}

TEST(Schedule, OnecycleReferenceVectors) {
  // Reference 1.13: torch's OneCycleLR with div_factor 100, final_div_factor 0.1; S = 1000, warm-up 10 %.
  const ScheduleSettings settings{.kind = ScheduleKind::onecycle, .peak = 1, .steps = 1000, .warmup = 100};
  const std::pair<int64_t, double> expected[] = {{0, .01},       {25, .15777},   {50, .512854}, {99, 1},
                                                 {100, .999997}, {550, .548429}, {999, .1}};
  for (const auto& [step, value] : expected) EXPECT_NEAR(learning_rate(settings, step), value, 5e-6 * value) << step;
}

TEST(Schedule, OnecycleWithoutWarmupStartsAtThePeak) {
  for (const int64_t warmup : {0, 1}) {
    const ScheduleSettings settings{.kind = ScheduleKind::onecycle, .peak = 1, .steps = 100, .warmup = warmup};
    EXPECT_EQ(learning_rate(settings, 0), 1);
    EXPECT_NEAR(learning_rate(settings, 99), 0.1, 1e-15);
  }
}

TEST(Schedule, ConstantKeepsThePeakAfterWarmup) {
  const ScheduleSettings settings{.kind = ScheduleKind::constant, .peak = 3, .steps = 100, .warmup = 4};
  EXPECT_EQ(learning_rate(settings, 0), 0.75);
  for (const int64_t step : {3, 4, 50, 99}) EXPECT_EQ(learning_rate(settings, step), 3);
}

// data/schedules.json: torch's and transformers' own. transformers' warm-ups begin elsewhere and are left out.
TEST(Schedule, DecaysAsTorchAndTransformersDo) {
  std::ifstream file(std::string(NIBBLE_TEST_DATA) + "/optim/data/schedules.json");
  const nlohmann::json theirs = nlohmann::json::parse(file);
  const ScheduleSettings settings{.peak = 1,
                                  .steps = theirs["steps"],
                                  .warmup = theirs["warmup"],
                                  .final_fraction = theirs["final"],
                                  .cooldown = theirs["decay"]};
  const auto expect_same = [&](const char* name, ScheduleKind kind, CooldownShape shape = CooldownShape::linear) {
    ScheduleSettings ours = settings;
    ours.kind = kind;
    ours.cooldown_shape = shape;
    for (int64_t step = kind == ScheduleKind::onecycle ? 0 : ours.warmup; step < ours.steps; ++step)
      EXPECT_NEAR(learning_rate(ours, step), theirs[name][static_cast<size_t>(step)].get<double>(), 1e-14)
          << name << " " << step;
  };
  expect_same("onecycle", ScheduleKind::onecycle);
  expect_same("cosine", ScheduleKind::cosine);
  expect_same("wsd_linear", ScheduleKind::wsd, CooldownShape::linear);
  expect_same("wsd_sqrt", ScheduleKind::wsd, CooldownShape::one_minus_sqrt);
  expect_same("constant", ScheduleKind::constant);
}

TEST(Schedule, IsPositiveAndFiniteAtTheEdges) {
  for (const ScheduleKind kind :
       {ScheduleKind::constant, ScheduleKind::cosine, ScheduleKind::wsd, ScheduleKind::onecycle})
    for (const int64_t steps : {1, 2, 3})
      for (int64_t warmup = 0; warmup <= steps; ++warmup) {
        const ScheduleSettings settings{
            .kind = kind, .peak = 1, .steps = steps, .warmup = warmup, .cooldown = steps - warmup};
        ASSERT_NO_THROW(validate(settings));
        for (int64_t step = 0; step < steps; ++step) {
          EXPECT_GT(learning_rate(settings, step), 0) << static_cast<int>(kind) << " " << steps << " " << warmup;
          EXPECT_LE(learning_rate(settings, step), 1);
        }
      }
}

TEST(Schedule, RefusesContradictions) {
  const auto expect_refused = [](const ScheduleSettings& settings, const std::string& where) {
    try {
      validate(settings);
      ADD_FAILURE() << "accepted " << where;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::configuration);
      EXPECT_EQ(error.detail().where, where);
    }
  };
  const ScheduleSettings good{.kind = ScheduleKind::wsd, .peak = 1, .steps = 100, .warmup = 80, .cooldown = 20};
  EXPECT_NO_THROW(validate(good));
  for (const double peak : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    ScheduleSettings bad = good;
    bad.peak = peak;
    expect_refused(bad, "optimizer.learning_rate");
  }
  ScheduleSettings bad = good;
  bad.steps = 0;
  expect_refused(bad, "steps");
  bad = good;
  bad.final_fraction = 1.5;
  expect_refused(bad, "schedule.final");
  bad = good;
  bad.warmup = 101;
  expect_refused(bad, "schedule.warmup");
  bad.warmup = -1;
  expect_refused(bad, "schedule.warmup");
  bad = good;
  bad.cooldown = 21;
  expect_refused(bad, "schedule.warmup, schedule.decay");
  bad.cooldown = 101;
  expect_refused(bad, "schedule.decay");
  bad.cooldown = -1;
  expect_refused(bad, "schedule.decay");
  bad.kind = ScheduleKind::cosine;  // has no cooldown, whatever the field says
  EXPECT_NO_THROW(validate(bad));
}

}  // namespace
}  // namespace nibble
