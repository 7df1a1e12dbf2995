// Ten steps of other programs (data/README.md), for the tests of optimizers that repeat them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/optim/parameters.hpp"

namespace nibble::testing {

inline nlohmann::json recorded(const std::string& name) {
  std::ifstream file(NIBBLE_TEST_DATA "/optim/data/" + name);
  return nlohmann::json::parse(file);
}

/// Drawn weights that follow ten drawn gradients each.
class RecordedSteps {
 public:
  explicit RecordedSteps(const nlohmann::json& shapes) : parameters(shapes_of(shapes), DType::f32) {
    for (const OptimizedParameter& parameter : parameters.list) {
      fill(parameter.master, draw_);
      before_.emplace_back(parameter.master.as<float>(), parameter.master.as<float>() + parameter.master.size());
    }
  }

  void step(Stream& stream, Optimizer& optimizer, int64_t step) {
    for (const OptimizedParameter& parameter : parameters.list) fill(parameter.gradient, draw_);
    optimizer.step(stream, {.step = step, .learning_rate = 0.02 * static_cast<double>(step) / 10});
  }

  /// The weights of each parameter within 1e-5 of its largest change.
  void expect(const nlohmann::json& weights) const {
    for (size_t i = 0; i < before_.size(); ++i) {
      double error = 0, change = 0;
      for (size_t j = 0; j < before_[i].size(); ++j) {
        const auto expected = weights[i][j].get<double>();
        error = std::max(error, std::abs(static_cast<double>(parameters.master(i)[j]) - expected));
        change = std::max(change, std::abs(expected - static_cast<double>(before_[i][j])));
      }
      EXPECT_LT(error, 1e-5 * change) << "parameter " << i;
    }
  }

  Parameters parameters;

 private:
  static std::vector<Shape> shapes_of(const nlohmann::json& list) {
    std::vector<Shape> shapes;
    for (const auto& shape : list) shapes.push_back({shape[0], shape[1], true});
    return shapes;
  }

  Draws draw_{1};
  std::vector<std::vector<float>> before_;
};

}  // namespace nibble::testing
