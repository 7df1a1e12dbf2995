#include "trainer/sweep_points.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "tensor/error.hpp"
#include "tensor/random.hpp"

namespace nibble {
namespace {

constexpr size_t most_points = 10000;

[[noreturn]] void refuse(const std::string& what, const SweepFile& file, const std::string& seen,
                         const std::string& allowed, const std::string& next) {
  throw Error({.kind = ErrorKind::configuration,
               .what = what,
               .where = file.name,
               .seen = seen,
               .allowed = allowed,
               .next = next});
}

std::vector<SweepPoint> grid(const SweepFile& file) {
  std::vector<SweepPoint> points = {{}};
  for (const SweepAxis& axis : file.axes) {
    if (points.size() * axis.values.size() > most_points)
      refuse("too many runs", file, fmt::format("{} x {} and more", points.size(), axis.values.size()),
             fmt::format("at most {}", most_points), "shorten the axes, or draw random points");
    std::vector<SweepPoint> longer;
    for (const SweepPoint& point : points)
      for (const SweepValue& value : axis.values) {
        longer.push_back(point);
        longer.back().push_back(value);
      }
    points = std::move(longer);
  }
  return points;
}

/// In [0, 1).
double draw(const SweepFile& file, size_t point, size_t axis) {
  return RandomStream(file.seed, Purpose::sampling, static_cast<uint32_t>(point), static_cast<uint32_t>(axis))
      .uniform(0);
}

SweepValue drawn_value(const SweepAxis& axis, double part) {
  if (axis.range) return sweep_value(axis.name, YAML::Node(number_in_range(*axis.range, part)), axis.where, 0);
  return axis.values[static_cast<size_t>(part * static_cast<double>(axis.values.size()))];
}

std::string text_of(const SweepPoint& point) {
  std::string text;
  for (const SweepValue& value : point) text += (text.empty() ? "" : "_") + value.label;
  return text;
}

std::vector<SweepPoint> random_points(const SweepFile& file) {
  constexpr size_t tries_each = 100;
  const auto count = static_cast<size_t>(file.count);
  std::vector<SweepPoint> points;
  std::set<std::string> seen;
  for (size_t i = 0; points.size() < count && i < tries_each * count; ++i) {
    SweepPoint point;
    for (size_t axis = 0; axis < file.axes.size(); ++axis)
      point.push_back(drawn_value(file.axes[axis], draw(file, i, axis)));
    if (seen.insert(text_of(point)).second) points.push_back(std::move(point));
  }
  if (points.size() < count)
    refuse("the axes have fewer different points than are to be drawn", file, fmt::format("{}", points.size()),
           fmt::format("count: {}", count), "lower count, or take the grid");
  return points;
}

/// Empties the labels of what all points have alike.
void shorten(std::vector<SweepPoint>& points) {
  std::set<std::string> shared;
  for (const SweepValue& value : points.front()) shared.insert(value.label);
  for (const SweepPoint& point : points)
    std::erase_if(shared, [&](const std::string& label) {
      return std::ranges::find(point, label, &SweepValue::label) == point.end();
    });
  for (SweepPoint& point : points)
    for (SweepValue& value : point)
      if (shared.contains(value.label)) value.label.clear();
}

}  // namespace

std::vector<SweepPoint> points_of(const SweepFile& file) {
  std::vector<SweepPoint> points = !file.list.empty() ? file.list : file.count > 0 ? random_points(file) : grid(file);
  std::set<std::string> seen;
  for (const SweepPoint& point : points)
    if (const std::string text = text_of(point); !seen.insert(text).second)
      refuse("two runs with one name", file, text, "a name for each run", "remove the value that stands twice");
  if (points.size() > 1) shorten(points);
  return points;
}

}  // namespace nibble
