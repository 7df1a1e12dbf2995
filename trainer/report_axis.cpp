#include "trainer/report_axis.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace nibble {
namespace {

/// The least and the largest; of one value, or of none, a range around it.
std::pair<double, double> range_of(std::span<const double> values) {
  if (values.empty()) return {0, 1};
  const auto [low, high] = std::ranges::minmax(values);
  if (low < high) return {low, high};
  const double room = low == 0 ? 1 : std::abs(low) / 10;
  return {low - room, high + room};
}

}  // namespace

std::string compact_number(double value) {
  constexpr int digits = 4;
  for (const auto& [unit, suffix] :
       {std::pair(1e12, "T"), std::pair(1e9, "B"), std::pair(1e6, "M"), std::pair(1e3, "k")})
    if (std::abs(value) >= unit * (unit == 1e3 ? 10 : 1)) return fmt::format("{:.{}g}{}", value / unit, digits, suffix);
  return fmt::format("{:.{}g}", value, digits);
}

Axis Axis::exact(std::span<const double> values) {
  const auto [low, high] = range_of(values);
  return {low, high, false};
}

Axis Axis::linear(std::span<const double> values) {
  constexpr double room = 0.04, near_zero = 0.3;
  const auto [low, high] = range_of(values);
  const double beside = room * (high - low);
  return {low >= 0 && low < near_zero * high ? 0 : low - beside, high + beside, false};
}

Axis Axis::for_magnitudes(std::span<const double> values) {
  constexpr double far_above = 30, room = 0.04;
  const auto [low, high] = range_of(values);
  if (low <= 0 || high < far_above * low) return linear(values);
  const double beside = room * std::log10(high / low);
  return {std::log10(low) - beside, std::log10(high) + beside, true};
}

double Axis::position(double value) const {
  return ((logarithmic_ ? std::log10(value) : value) - low_) / (high_ - low_);
}

std::vector<Axis::Tick> Axis::ticks() const {
  std::vector<Tick> ticks;
  const auto add = [&](double value) {
    const double at = position(value);
    if (at >= -1e-9 && at <= 1 + 1e-9) ticks.push_back({value, compact_number(value)});
  };
  if (logarithmic_) {
    constexpr double most_decades_with_all = 3;
    const double decades = high_ - low_;
    const double apart = std::max(1.0, std::ceil(decades / 8));  // decades between ticks
    for (double exponent = std::floor(low_); exponent <= high_; exponent += apart)
      for (const double digit : {1, 2, 5})
        if (digit == 1 || decades <= most_decades_with_all) add(digit * std::pow(10, exponent));
    return ticks;
  }
  constexpr double wanted = 5;
  const double raw = (high_ - low_) / wanted, decade = std::pow(10, std::floor(std::log10(raw)));
  const double digit = raw / decade;
  const double step = decade * (digit < 1.5 ? 1 : digit < 3.5 ? 2 : digit < 7.5 ? 5 : 10);
  const auto first = static_cast<int64_t>(std::ceil(low_ / step - 1e-9));
  const auto last = static_cast<int64_t>(std::floor(high_ / step + 1e-9));
  for (int64_t i = first; i <= last; ++i) add(static_cast<double>(i) * step);
  return ticks;
}

}  // namespace nibble
