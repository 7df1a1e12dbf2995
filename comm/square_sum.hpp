// The sum of a vector's squares, in double.
#pragma once

#include <cstddef>
#include <span>

namespace nibble {

inline double square_sum(std::span<const float> values) {
  double lanes[8] = {};  // so that additions need not wait for each other
  size_t i = 0;
  for (; i + 8 <= values.size(); i += 8)
    for (size_t lane = 0; lane < 8; ++lane) lanes[lane] += double(values[i + lane]) * double(values[i + lane]);
  for (; i < values.size(); ++i) lanes[0] += double(values[i]) * double(values[i]);
  double total = 0;
  for (const double lane : lanes) total += lane;
  return total;
}

}  // namespace nibble
