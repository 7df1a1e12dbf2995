#include "optim/gradient_norm.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/optim/parameters.hpp"

namespace nibble {
namespace {

using testing::Draws;
using testing::Parameters;

const std::vector<testing::Shape> shapes = {{130, 67}, {1, 67}, {3, 4096}, {9, 1000}, {1, 1}};

double norm_of(Stream& stream, const Parameters& parameters) {
  std::vector<Tensor> gradients;
  for (const OptimizedParameter& parameter : parameters.list) gradients.push_back(parameter.gradient);
  return gradient_norm(gradient_square_sums(stream, gradients));
}

TEST(GradientNorm, SumsEveryElementOnceInDouble) {
  Stream stream(2);
  const Parameters parameters(shapes, DType::bf16);
  Draws draw(1);
  long double squares = 0;
  for (const OptimizedParameter& parameter : parameters.list)
    for (int64_t j = 0; j < parameter.gradient.size(); ++j) {
      const float value = parameter.gradient.as<float>()[j] = draw();
      squares += static_cast<long double>(value) * value;
    }
  const double norm = norm_of(stream, parameters);
  EXPECT_NEAR(norm, std::sqrt(static_cast<double>(squares)), 1e-13 * norm);
  for (const int threads : {1, 3}) {
    Stream other(threads);
    EXPECT_EQ(norm_of(other, parameters), norm);
  }
}

TEST(GradientNorm, KeepsWhatFloatWouldLose) {
  // Beside 2^26 a float sum of squares would lose every 1 of the same lane.
  Stream stream(2);
  const Parameters parameters({{1, 5000}}, DType::bf16);
  for (int64_t j = 0; j < 5000; ++j) parameters.gradient(0)[j] = 1;
  parameters.gradient(0)[0] = 8192;
  EXPECT_EQ(norm_of(stream, parameters), std::sqrt(8192.0 * 8192 + 4999));
}

TEST(GradientNorm, TellsWhetherAllElementsAreFinite) {
  Stream stream(2);
  const Parameters parameters(shapes, DType::bf16);
  for (const OptimizedParameter& parameter : parameters.list)
    for (int64_t j = 0; j < parameter.gradient.size(); ++j)
      parameter.gradient.as<float>()[j] = std::numeric_limits<float>::max();
  EXPECT_TRUE(std::isfinite(norm_of(stream, parameters)));
  for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()})
    for (const OptimizedParameter& parameter : parameters.list)
      for (const int64_t place : {int64_t{0}, parameter.gradient.size() / 2, parameter.gradient.size() - 1}) {
        float& element = parameter.gradient.as<float>()[place];
        const float before = element;
        element = bad;
        EXPECT_FALSE(std::isfinite(norm_of(stream, parameters))) << parameter.info->name << " " << place;
        element = before;
      }
}

TEST(ClipFactor, IsTorchs) {
  EXPECT_EQ(clip_factor(0.5, 1.0), 1.0);
  EXPECT_EQ(clip_factor(0, 1.0), 1.0);
  EXPECT_DOUBLE_EQ(clip_factor(4.0, 1.0), 1.0 / 4.000001);
  EXPECT_DOUBLE_EQ(clip_factor(1.0, 1.0), 1.0 / 1.000001);  // the 1e-6 acts at the threshold too
  EXPECT_EQ(clip_factor(4.0, 0), 1.0);
}

}  // namespace
}  // namespace nibble
