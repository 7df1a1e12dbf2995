// Gradients of a whole model against differences of what they are of.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "tensor/random.hpp"
#include "tests/model/fixtures.hpp"

namespace nibble::test {

/// A direction in the space of each parameter: the slope of `objective` along it is the inner product with
/// llama.gradients. `objective` runs on llama.weights, which this moves and puts back.
inline void expect_finite_differences(ReferenceLlama& llama, const std::function<double()>& objective) {
  const std::vector<ParameterInfo>& parameters = llama.model.layout().parameters();
  const ParameterSet gradients = llama.model.make_gradients();  // the objective may overwrite its own
  copy_parameters(llama.stream, llama.gradients, gradients);
  for (size_t i = 0; i < parameters.size(); ++i) {
    const RandomStream random(11, Purpose::sampling, 0, static_cast<uint32_t>(i));
    const OwnedTensor direction(DType::f32, parameters[i].rows, parameters[i].cols);
    double slope = 0, norm = 0;
    for (int64_t e = 0; e < parameters[i].size(); ++e) {
      // Along the gradient mostly, so that the slope is well above the rounding of a loss in fp32.
      const float g = gradients[i].row<float>(e / parameters[i].cols)[e % parameters[i].cols];
      const float d = g * (1.0f + random.normal_pair(static_cast<uint64_t>(e))[0]);
      direction.view().as<float>()[e] = d;
      slope += static_cast<double>(d) * g;
      norm += static_cast<double>(d) * d;
    }
    const auto objective_at = [&](double step) {
      for (int64_t e = 0; e < parameters[i].size(); ++e)
        llama.weights[i].row<float>(e / parameters[i].cols)[e % parameters[i].cols] =
            llama.masters[i].row<float>(e / parameters[i].cols)[e % parameters[i].cols] +
            static_cast<float>(step) * direction.view().as<float>()[e];
      return objective();
    };
    const double step = 0.02 / std::sqrt(norm);
    const double difference = (objective_at(step) - objective_at(-step)) / (2 * step);
    objective_at(0);
    EXPECT_NEAR(difference, slope, 0.01 * std::abs(slope)) << parameters[i].name;
  }
}

}  // namespace nibble::test
