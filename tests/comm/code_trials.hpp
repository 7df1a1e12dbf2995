// Random vectors and errors for tests of codecs.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "comm/bucket_codec.hpp"
#include "tensor/random.hpp"

namespace nibble {

inline std::vector<float> normal_values(int64_t count, uint32_t trial, float deviation = 1) {
  const RandomStream stream(20240608, Purpose::initialization, trial);
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = deviation * stream.normal_pair(i / 2)[i % 2];
  return values;
}

/// Student's t with three degrees of freedom: a normal over the root of a mean of three squares.
inline std::vector<float> student_values(int64_t count, uint32_t trial) {
  std::vector<float> values = normal_values(count, trial);
  const std::vector<float> others = normal_values(3 * count, trial + 0x10000000);
  for (size_t i = 0; i < values.size(); ++i) {
    const float *x = &others[3 * i], square = x[0] * x[0] + x[1] * x[1] + x[2] * x[2];
    values[i] /= std::sqrt(square / 3);
  }
  return values;
}

inline double squared_norm(std::span<const float> x) {
  double sum = 0;
  for (const float v : x) sum += double{v} * v;
  return sum;
}
inline double squared_distance(std::span<const float> x, std::span<const float> y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += (double{x[i]} - y[i]) * (double{x[i]} - y[i]);
  return sum;
}

/// What comes out of a message of these values.
inline std::vector<float> round_trip(BucketCodec& codec, std::span<const float> values, const CodeSource& source) {
  std::vector<std::byte> message(codec.codec().bytes_of(static_cast<int64_t>(values.size())));
  std::vector<float> decoded(values.size());
  codec.encode(values, source, message);
  codec.decode(message, source, decoded);
  return decoded;
}

/// The mean of many decodes against the values, in standard errors of that mean: the largest over all elements.
/// `decode(trial)` gives one.
template <class Decode>
double largest_bias_in_standard_errors(std::span<const float> values, uint32_t trials, Decode&& decode) {
  std::vector<double> sum(values.size()), squares(values.size());
  for (uint32_t trial = 0; trial < trials; ++trial) {
    const std::vector<float> decoded = decode(trial);
    for (size_t i = 0; i < values.size(); ++i) {
      const double error = double{decoded[i]} - values[i];
      sum[i] += error;
      squares[i] += error * error;
    }
  }
  double largest = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double mean = sum[i] / trials, variance = squares[i] / trials - mean * mean;
    // An element that is always exact up to rounding has no variance to compare with.
    const double rounding = 1e-6 * std::abs(values[i]) + 1e-9;
    largest = std::max(largest, std::abs(mean) / (std::sqrt(variance / trials) + rounding));
  }
  return largest;
}

}  // namespace nibble
