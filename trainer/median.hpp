// The median of measurements.
//
// Not for judgements that must name one of the values that were seen (doctor_judgement.cpp).
#pragma once

#include <algorithm>
#include <vector>

namespace nibble {

/// Half the sum of the two middle ones where their number is even. Of one value at least.
inline double median(std::vector<double> values) {
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::ranges::nth_element(values, middle);
  return values.size() % 2 == 1 ? *middle : (*std::max_element(values.begin(), middle) + *middle) / 2;
}

}  // namespace nibble
