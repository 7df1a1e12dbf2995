#include "trainer/report_axis.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>
#include <utility>

namespace nibble {
namespace {

struct Unit {
  double value;
  const char* suffix;
};

/// The unit in which a number is said: thousands only from ten thousand on.
Unit unit_of(double value) {
  for (const auto& [unit, from, suffix] :
       {std::tuple(1e12, 1e12, "T"), std::tuple(1e9, 1e9, "B"), std::tuple(1e6, 1e6, "M"), std::tuple(1e3, 1e4, "k")})
    if (std::abs(value) >= from) return {unit, suffix};
  return {1, ""};
}

/// The least and the largest; where they are one value or nearly so, a range around it that axes can still tell apart.
std::pair<double, double> range_of(std::span<const double> values) {
  constexpr double nearly = 1e-4, room = 0.1;
  if (values.empty()) return {0, 1};
  const auto [low, high] = std::ranges::minmax(values);
  const double size = std::max(std::abs(low), std::abs(high));
  if (high - low > nearly * size) return {low, high};
  const double beside = size == 0 ? 1 : room * size;
  return {low - beside, high + beside};
}

}  // namespace

std::string compact_number(double value) {
  constexpr int digits = 4;
  const Unit unit = unit_of(value);
  return fmt::format("{:.{}g}{}", value / unit.value, digits, unit.suffix);
}

bool is_drawable(double value) { return std::abs(value) < 1e30; }

FigureAxis FigureAxis::between(double begin, double end) {
  const auto [low, high] = range_of(std::array{begin, end});
  return {low, high, false};
}

FigureAxis FigureAxis::linear(std::span<const double> values) {
  constexpr double room = 0.04, near_zero = 0.3;
  const auto [low, high] = range_of(values);
  const double beside = room * (high - low);
  return {low >= 0 && low < near_zero * high ? 0 : low - beside, high + beside, false};
}

FigureAxis FigureAxis::for_magnitudes(std::span<const double> values) {
  constexpr double far_above = 30, room = 0.04;
  const auto [low, high] = range_of(values);
  if (low <= 0 || high < far_above * low) return linear(values);
  const double begin = std::log10(low), end = std::log10(high), beside = room * (end - begin);
  return {begin - beside, end + beside, true};
}

double FigureAxis::position(double value) const {
  return ((logarithmic_ ? std::log10(value) : value) - low_) / (high_ - low_);
}

std::vector<FigureAxis::Tick> FigureAxis::ticks() const { return logarithmic_ ? logarithmic_ticks() : linear_ticks(); }

std::vector<FigureAxis::Tick> FigureAxis::logarithmic_ticks() const {
  constexpr double most_decades_with_all = 3, most_decades = 8;
  std::vector<Tick> ticks;
  const double decades = high_ - low_;
  const double apart = std::max(1.0, std::ceil(decades / most_decades));  // decades between ticks
  for (double exponent = std::floor(low_); exponent <= high_; exponent += apart)
    for (const double digit : {1, 2, 5}) {
      const double value = digit * std::pow(10, exponent), at = position(value);
      if (at >= 0 && at <= 1 && (digit == 1 || decades <= most_decades_with_all))
        ticks.push_back({value, compact_number(value)});
    }
  return ticks;
}

std::vector<FigureAxis::Tick> FigureAxis::linear_ticks() const {
  constexpr double wanted = 5, rounding = 1e-9;
  const double raw = (high_ - low_) / wanted, decade = std::pow(10, std::floor(std::log10(raw)));
  const double digit = raw / decade;
  const double step = decade * (digit < 1.5 ? 1 : digit < 3.5 ? 2 : digit < 7.5 ? 5 : 10);
  // One unit for all labels, and the decimals that tell neighbours apart.
  const Unit unit = unit_of(std::max(std::abs(low_), std::abs(high_)));
  const int decimals = std::max(0, static_cast<int>(-std::floor(std::log10(step / unit.value) + rounding)));
  constexpr int most_decimals = 5;  // of a label that is still read faster than one with an exponent
  const auto label = [&](double value) {
    if (value == 0) return std::string("0");
    return decimals > most_decimals ? compact_number(value)
                                    : fmt::format("{:.{}f}{}", value / unit.value, decimals, unit.suffix);
  };
  std::vector<Tick> ticks;
  for (double i = std::ceil(low_ / step - rounding); i <= high_ / step + rounding; ++i)
    ticks.push_back({i * step, label(i * step)});
  return ticks;
}

}  // namespace nibble
