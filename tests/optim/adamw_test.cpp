#include "optim/adamw.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "optim/weight_decay.hpp"
#include "tensor/error.hpp"
#include "tests/optim/parameters.hpp"
#include "tests/optim/recorded_steps.hpp"
#include "tests/tensor/scoped_environment.hpp"

namespace nibble {
namespace {

using testing::Draws;
using testing::Parameters;

// Moment `kind` of parameter `i`, through the state list, as a checkpoint sees it.
Tensor moment(AdamW& optimizer, const std::string& kind, const Parameters& parameters, size_t i) {
  StateList list;
  optimizer.state(list);
  for (const StateList::Entry& entry : list.entries())
    if (entry.name == "optimizer/" + kind + "/" + parameters.list[i].info->name) return entry.tensor;
  return {};
}

TEST(AdamW, ReferenceVectors) {
  // Reference 6.2: w0 = 1, lr 1e-3, betas .9 and .95, eps 1e-8, decay .1, gradients .1, -.2, .3.
  const float gradients[] = {0.1f, -0.2f, 0.3f};
  const double weights[] = {0.998900000100, 0.999163484028, 0.998725160422};
  const double first[] = {0.01, -0.011, 0.0201}, second[] = {0.0005, 0.002475, 0.00685125};
  Stream stream(1);
  const Parameters parameters({{1, 1, true}}, DType::f32);
  parameters.master(0)[0] = 1;
  AdamW optimizer(parameters.list, {});
  for (int t = 0; t < 3; ++t) {
    parameters.gradient(0)[0] = gradients[t];
    optimizer.step(stream, {.step = t + 1, .learning_rate = 1e-3});
    EXPECT_NEAR(parameters.master(0)[0], weights[t], 1.2e-7) << "step " << t + 1;
    EXPECT_NEAR(moment(optimizer, "first_moment", parameters, 0).as<float>()[0], first[t], 2e-9);
    EXPECT_NEAR(moment(optimizer, "second_moment", parameters, 0).as<float>()[0], second[t], 1e-9);
  }
}

TEST(AdamW, TwoHundredStepsAsTorch) {
  const auto expected = testing::recorded("adamw_200_steps.json");
  std::vector<testing::Shape> shapes;
  for (size_t i = 0; i < expected["shapes"].size(); ++i)
    shapes.push_back({expected["shapes"][i][0], expected["shapes"][i][1], expected["decay"][i]});
  Stream stream(2);
  const Parameters parameters(shapes, DType::f32);
  Draws draw(1);
  for (const OptimizedParameter& parameter : parameters.list)
    for (int64_t j = 0; j < parameter.master.size(); ++j) parameter.master.as<float>()[j] = draw();
  AdamW optimizer(parameters.list, {.beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0.1});
  for (int64_t step = 1; step <= 200; ++step) {
    for (size_t i = 0; i < shapes.size(); ++i)
      for (int64_t j = 0; j < parameters.list[i].gradient.size(); ++j)
        parameters.gradient(i)[j] = draw() * expected["gradient_scale"][i].get<float>();
    optimizer.step(stream, {.step = step, .learning_rate = 1e-2 * static_cast<double>(step) / 200});
    if (step != 1 && step != 200) continue;
    const std::string key = std::to_string(step);
    for (size_t i = 0; i < shapes.size(); ++i)
      for (int64_t j = 0; j < parameters.list[i].master.size(); ++j) {
        // torch's own float32 is up to 4.1e-7 from float64 after 200 steps.
        ASSERT_NEAR(parameters.master(i)[j], expected["float64_after"][key][i][j].get<double>(), 6e-7) << i << "," << j;
        ASSERT_NEAR(parameters.master(i)[j], expected["float32_after"][key][i][j].get<double>(), 3e-7) << i << "," << j;
      }
  }
}

TEST(AdamW, ConstantGradientWithoutDecayMovesByTheLearningRate) {
  // Invariant of reference 6.2: w_t = w_0 - t lr (1 - eps/|g|).
  Stream stream(1);
  const Parameters parameters({{1, 2, false}}, DType::f32);
  AdamW optimizer(parameters.list, {.epsilon = 1e-4});
  parameters.gradient(0)[0] = 0.5f;
  parameters.gradient(0)[1] = -0.001f;
  for (int t = 1; t <= 5; ++t) {
    optimizer.step(stream, {.step = t, .learning_rate = 1e-3});
    EXPECT_NEAR(parameters.master(0)[0], -t * 1e-3 / (1 + 1e-4 / 0.5), 3e-9 * t);
    EXPECT_NEAR(parameters.master(0)[1], t * 1e-3 / (1 + 1e-4 / 0.001), 3e-9 * t);
  }
}

TEST(AdamW, ZeroGradientOnlyDecays) {
  Stream stream(1);
  const Parameters parameters({{1, 3, true}, {1, 3, false}}, DType::f32);
  for (size_t i = 0; i < 2; ++i)
    for (int j = 0; j < 3; ++j) parameters.master(i)[j] = 1.5f;
  AdamW optimizer(parameters.list, {.weight_decay = 0.25});
  float product = 1.5f;
  for (int t = 1; t <= 4; ++t) {
    const double learning_rate = 0.125 * t;  // 1 - lr wd is exact in float
    optimizer.step(stream, {.step = t, .learning_rate = learning_rate});
    product *= static_cast<float>(1 - learning_rate * 0.25);
  }
  for (int j = 0; j < 3; ++j) {
    EXPECT_EQ(parameters.master(0)[j], product);
    EXPECT_EQ(parameters.master(1)[j], 1.5f);
  }
}

// A model-like set of odd shapes: rows that are no multiple of a vector, blocks that begin inside a row.
const std::vector<testing::Shape> odd_shapes = {
    {130, 67, true}, {1, 67, false}, {3, 4096, true}, {9, 1000, true}, {1, 1, false}};

// Masters, moments and working copies after three steps, as bits.
std::vector<uint32_t> bits_after_steps(int threads, DType working, double gradient_scale, float gradient_factor = 1) {
  Stream stream(threads);
  const Parameters parameters(odd_shapes, working);
  Draws draw(3);
  for (const OptimizedParameter& parameter : parameters.list)
    for (int64_t j = 0; j < parameter.master.size(); ++j) parameter.master.as<float>()[j] = draw();
  AdamW optimizer(parameters.list, {});
  for (int t = 1; t <= 3; ++t) {
    for (const OptimizedParameter& parameter : parameters.list)
      for (int64_t j = 0; j < parameter.master.size(); ++j)
        parameter.gradient.as<float>()[j] = draw() * gradient_factor;
    optimizer.step(stream, {.step = t, .learning_rate = 1e-2, .gradient_scale = gradient_scale});
  }
  std::vector<uint32_t> bits;
  StateList list;
  optimizer.state(list);
  for (const OptimizedParameter& parameter : parameters.list)
    list.add("master/" + parameter.info->name, parameter.master);
  for (const StateList::Entry& entry : list.entries())
    for (int64_t j = 0; j < entry.tensor.size(); ++j)
      bits.push_back(std::bit_cast<uint32_t>(entry.tensor.as<float>()[j]));
  for (const OptimizedParameter& parameter : parameters.list)
    for (int64_t row = 0; row < parameter.working.rows; ++row)
      for (int64_t j = 0; j < parameter.working.cols; ++j)
        bits.push_back(working == DType::bf16 ? parameter.working.row<bf16>(row)[j].bits
                                              : std::bit_cast<uint32_t>(parameter.working.row<float>(row)[j]));
  return bits;
}

TEST(AdamW, SameBitsWithAnyNumberOfThreads) {
  for (const DType working : {DType::bf16, DType::f32}) {
    const std::vector<uint32_t> one = bits_after_steps(1, working, 0.7);
    EXPECT_EQ(one, bits_after_steps(2, working, 0.7));
    EXPECT_EQ(one, bits_after_steps(5, working, 0.7));
  }
}

TEST(AdamW, SameBitsWithEitherInstructionSet) {
  const std::vector<uint32_t> widest = bits_after_steps(1, DType::bf16, 0.7);
  const ScopedEnvironment narrow("NIBBLE_ISA", "avx2");
  EXPECT_EQ(widest, bits_after_steps(1, DType::bf16, 0.7));
}

TEST(AdamW, GradientScaleMultipliesTheGradient) {
  EXPECT_EQ(bits_after_steps(1, DType::f32, 0.25), bits_after_steps(1, DType::f32, 1, 0.25f));
  EXPECT_NE(bits_after_steps(1, DType::f32, 0.25), bits_after_steps(1, DType::f32, 1));
}

TEST(AdamW, WorkingCopyIsTheRoundedMasterAndPaddingIsLeftAlone) {
  Stream stream(2);
  const Parameters parameters(odd_shapes, DType::bf16);
  Draws draw(4);
  for (const OptimizedParameter& parameter : parameters.list) {
    const Tensor& working = parameter.working;
    for (int64_t j = 0; j < working.rows * working.stride; ++j) working.as<bf16>()[j].bits = 0xabcd;
    for (int64_t j = 0; j < parameter.master.size(); ++j) {
      parameter.master.as<float>()[j] = draw();
      parameter.gradient.as<float>()[j] = draw();
    }
  }
  const auto expect_rounded = [&parameters] {
    for (const OptimizedParameter& parameter : parameters.list) {
      const Tensor& working = parameter.working;
      for (int64_t row = 0; row < working.rows; ++row)
        for (int64_t j = 0; j < working.stride; ++j) {
          const uint16_t bits =
              j < working.cols ? bf16(parameter.master.row<float>(row)[j]).bits : static_cast<uint16_t>(0xabcd);
          ASSERT_EQ(working.row<bf16>(row)[j].bits, bits) << parameter.info->name << " " << row << "," << j;
        }
    }
  };
  refresh_working_copies(stream, parameters.list);
  expect_rounded();
  const float before = parameters.master(0)[0];
  AdamW optimizer(parameters.list, {});
  optimizer.step(stream, {.step = 1, .learning_rate = 1e-2});
  EXPECT_NE(parameters.master(0)[0], before);
  expect_rounded();
}

TEST(AdamW, StateHasTheParametersShapes) {
  const Parameters parameters({{5, 7, true}, {1, 3, false}}, DType::bf16);
  AdamW optimizer(parameters.list, {});
  StateList list;
  optimizer.state(list);
  ASSERT_EQ(list.entries().size(), 4u);
  EXPECT_EQ(list.entries()[0].name, "optimizer/first_moment/parameter0");
  EXPECT_EQ(list.entries()[3].name, "optimizer/second_moment/parameter1");
  EXPECT_EQ(list.entries()[1].tensor.rows, 5);
  EXPECT_EQ(list.entries()[1].tensor.cols, 7);
  EXPECT_TRUE(list.entries()[1].tensor.contiguous());
  EXPECT_EQ(list.bytes(), 2 * 4 * (35 + 3u));
}

TEST(AdamW, ResumesFromItsState) {
  // Two steps in one object, or one step in each of two with the state carried over.
  Stream stream(1);
  const Parameters whole({{4, 33, true}}, DType::f32), split({{4, 33, true}}, DType::f32);
  AdamW one(whole.list, {}), two(split.list, {});
  Draws draw(5);
  for (int64_t j = 0; j < 4 * 33; ++j) whole.gradient(0)[j] = split.gradient(0)[j] = draw();
  one.step(stream, {.step = 1, .learning_rate = 1e-2});
  two.step(stream, {.step = 1, .learning_rate = 1e-2});
  AdamW three(split.list, {});
  StateList saved, loaded;
  two.state(saved);
  three.state(loaded);
  for (size_t i = 0; i < saved.entries().size(); ++i)
    std::memcpy(loaded.entries()[i].tensor.data, saved.entries()[i].tensor.data, saved.entries()[i].tensor.bytes());
  one.step(stream, {.step = 2, .learning_rate = 1e-2});
  three.step(stream, {.step = 2, .learning_rate = 1e-2});
  for (int64_t j = 0; j < 4 * 33; ++j) EXPECT_EQ(whole.master(0)[j], split.master(0)[j]);
}

TEST(AdamW, RefusesConstantsOutOfRange) {
  const auto expect_refused = [](const AdamWSettings& settings, const std::string& key) {
    try {
      AdamW optimizer({}, settings);
      ADD_FAILURE() << "accepted " << key;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::configuration);
      EXPECT_EQ(error.detail().where, "optimizer." + key);
    }
  };
  expect_refused({.beta1 = 1.0}, "beta1");
  expect_refused({.beta2 = -0.1}, "beta2");
  expect_refused({.beta2 = std::nan("")}, "beta2");
  expect_refused({.epsilon = 0}, "epsilon");
  expect_refused({.epsilon = 1e-60}, "epsilon");  // zero in float32
  expect_refused({.weight_decay = -1}, "weight_decay");
  EXPECT_NO_THROW(AdamW({}, {.beta1 = 0, .beta2 = 0, .weight_decay = 0}));
}

}  // namespace
}  // namespace nibble
