#include "optim/schedule.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numbers>
#include <string>

#include "tensor/error.hpp"

namespace nibble {
namespace {

// From 1 at x = 0 to 0 at x = 1.
double half_cosine(double x) { return 0.5 * (1 + std::cos(std::numbers::pi * x)); }

// The part of [first, last] that is done at `step`.
double progress(int64_t step, int64_t first, int64_t last) {
  return std::clamp(static_cast<double>(step - first) / static_cast<double>(std::max<int64_t>(last - first, 1)), 0.0,
                    1.0);
}

double between(double low, double high, double part) { return low + (high - low) * part; }

double cooled(CooldownShape shape, double x) { return shape == CooldownShape::linear ? 1 - x : 1 - std::sqrt(x); }

double onecycle(const ScheduleSettings& settings, int64_t step) {
  // OneCycleLR(div_factor=100, final_div_factor=0.1): starts at a hundredth of the peak.
  constexpr double start = 0.01;
  const int64_t top = std::max<int64_t>(settings.warmup - 1, 0), last = settings.steps - 1;
  if (step < top) return between(1, start, half_cosine(progress(step, 0, top)));
  return between(settings.final_fraction, 1, half_cosine(progress(step, top, last)));
}

double fraction_of_peak(const ScheduleSettings& settings, int64_t step) {
  if (settings.kind == ScheduleKind::onecycle) return onecycle(settings, step);
  if (step < settings.warmup) return static_cast<double>(step + 1) / static_cast<double>(settings.warmup);
  const double low = settings.final_fraction;
  switch (settings.kind) {
    case ScheduleKind::cosine:
      return between(low, 1, half_cosine(progress(step, settings.warmup, settings.steps)));
    case ScheduleKind::wsd: {
      const int64_t first = settings.steps - settings.cooldown;
      if (step < first) return 1;
      return between(low, 1, cooled(settings.cooldown_shape, progress(step, first, settings.steps)));
    }
    case ScheduleKind::constant:
    case ScheduleKind::onecycle:
      break;
  }
  return 1;
}

void require(bool valid, const char* what, const char* key, const std::string& seen, const std::string& allowed,
             const char* next) {
  if (valid) return;
  throw Error(
      {.kind = ErrorKind::configuration, .what = what, .where = key, .seen = seen, .allowed = allowed, .next = next});
}

}  // namespace

void validate(const ScheduleSettings& settings) {
  require(settings.peak > 0 && std::isfinite(settings.peak), "the learning rate is not positive",
          "optimizer.learning_rate", fmt::format("{}", settings.peak), "a positive number", "1e-3 is a usual start");
  require(settings.steps >= 1, "a schedule needs steps", "steps", fmt::format("{}", settings.steps), "1 or more",
          "set steps or tokens");
  require(settings.final_fraction >= 0 && settings.final_fraction <= 1,
          "the final learning rate is no part of the peak", "schedule.final",
          fmt::format("{}", settings.final_fraction), "0% to 100%", "10% is usual");
  require(settings.warmup >= 0 && settings.warmup <= settings.steps, "the warm-up is longer than the run",
          "schedule.warmup", fmt::format("{} steps", settings.warmup), fmt::format("0 to {} steps", settings.steps),
          "give a share of the run: warmup: 10%");
  if (settings.kind != ScheduleKind::wsd) return;
  require(settings.cooldown >= 0 && settings.cooldown <= settings.steps, "the decay is longer than the run",
          "schedule.decay", fmt::format("{} steps", settings.cooldown), fmt::format("0 to {} steps", settings.steps),
          "give a share of the run: decay: 20%");
  require(settings.warmup + settings.cooldown <= settings.steps, "warm-up and decay overlap",
          "schedule.warmup, schedule.decay",
          fmt::format("warm-up {} + decay {} of {} steps", settings.warmup, settings.cooldown, settings.steps),
          fmt::format("together at most {} steps", settings.steps),
          "lower them, or give them as shares of the run: 10%");
}

double learning_rate(const ScheduleSettings& settings, int64_t step) {
  assert(step >= 0);
  return settings.peak * fraction_of_peak(settings, step);
}

}  // namespace nibble
