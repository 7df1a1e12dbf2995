// Quantiles of measurements.
//
// Not for judgements that must name one of the values that were seen (doctor_judgement.cpp).
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace nibble {

/// The value of which `share` of the others are smaller, linear between neighbours in order. Of one value at least.
inline double quantile(std::vector<double> values, double share) {
  std::ranges::sort(values);
  const double place = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (place - static_cast<double>(below)) * (values[above] - values[below]);
}

inline double median(std::vector<double> values) { return quantile(std::move(values), 0.5); }

}  // namespace nibble
