// z-loss in the fused cross-entropy: known answers, PyTorch, its definition, and differences of the objective.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "model/loss.hpp"
#include "tensor/convert.hpp"
#include "tensor/random.hpp"
#include "tests/model/finite_differences.hpp"

namespace nibble {
namespace {

using test::Fixture, test::ReferenceLlama, test::relative_error;

TEST(ZLoss, KnownAnswer) {  // reference 6.4
  Stream stream(1);
  float logits[] = {2, 1, 0.1f}, losses[1], lse[1], gradient[3];
  const int32_t target[] = {0};
  softmax_cross_entropy(stream, Tensor(logits, 1, 3), target, {.scale = 1, .z = 1e-4f}, losses, lse,
                        Tensor(gradient, 1, 3));
  EXPECT_NEAR(losses[0], 0.417030016, 0x1p-22) << "the loss is the cross-entropy alone";
  EXPECT_NEAR(1e-4 * lse[0] * lse[0], 5.84203e-4, 1e-9);
  const double cross_entropy[] = {-0.3409989, 0.2424330, 0.0985659}, z_loss[] = {3.186e-4, 1.172e-4, 0.476e-4};
  for (int i = 0; i < 3; ++i) EXPECT_NEAR(gradient[i], cross_entropy[i] + z_loss[i], 2.5e-7);
}

TEST(ZLoss, GradientsOfPyTorch) {
  Stream stream(2);
  Fixture layers(test::data("layers.safetensors")), expected(test::data("z_loss.safetensors"));
  const Tensor &hidden = layers["cross_entropy.hidden"], &weight = layers["cross_entropy.weight"];
  std::vector<int32_t> targets;
  for (int64_t t = 0; t < hidden.rows; ++t) {
    const int32_t target = layers["cross_entropy.targets"].as<int32_t>()[t];
    targets.push_back(target == -100 ? -1 : target);
  }
  LossScratch scratch;
  const Arena arena("scratch",
                    [&](Arena& memory) { scratch = LossScratch(memory, hidden.rows, weight.rows, DType::f32, true); });
  const OwnedTensor dhidden(DType::f32, hidden.rows, hidden.cols), dweight(DType::f32, weight.rows, weight.cols);
  const LossGradients gradients{{.scale = 0.1f, .z = 0.01f}, dhidden, dweight};
  head_loss(stream, hidden, weight, targets, scratch, &gradients);
  const LossSums sums = loss_sums(stream, scratch, hidden.rows);
  EXPECT_NEAR(sums.cross_entropy / 10, 6.9022129689979534, 2e-6);
  EXPECT_NEAR(0.01 * sums.squared_log_sum_exp / 10, 0.4874189830242085, 1e-6);
  EXPECT_LT(relative_error(dhidden, expected["dhidden"]), 1e-6);
  EXPECT_LT(relative_error(dweight, expected["dweight"]), 1e-6);
}

// (loss + z lse^2) scale in double, with widths that are no multiple of a vector, and targets that do not count.
TEST(ZLoss, AgreesWithItsDefinition) {
  Stream stream(2);
  constexpr double z = 0.003, scale = 0.25;
  for (const int64_t vocabulary : {5, 64, 83}) {
    const OwnedTensor logits(DType::f32, 7, vocabulary);
    const RandomStream random(3, Purpose::sampling, 0, static_cast<uint32_t>(vocabulary));
    for (int64_t i = 0; i < logits.view().size(); ++i)
      logits.view().as<float>()[i] = 4 * random.normal_pair(static_cast<uint64_t>(i))[0] - 6;
    const std::vector<int32_t> targets = {0, -1, 4, 2, -1, 1, 3};
    for (const DType type : {DType::f32, DType::bf16}) {
      const OwnedTensor gradient(type, 7, vocabulary);
      std::vector<float> losses(7), log_sum_exps(7);
      softmax_cross_entropy(stream, logits, targets, {.scale = scale, .z = z}, losses, log_sum_exps, gradient);
      for (int64_t t = 0; t < 7; ++t) {
        const auto at = static_cast<size_t>(t);
        const float* row = logits.view().row<float>(t);
        double total = 0;
        for (int64_t v = 0; v < vocabulary; ++v) total += std::exp(static_cast<double>(row[v]));
        const double lse = targets[at] < 0 ? 0 : std::log(total);
        EXPECT_NEAR(log_sum_exps[at], lse, 2e-6);
        EXPECT_NEAR(losses[at], targets[at] < 0 ? 0 : lse - row[targets[at]], 4e-6);
        for (int64_t v = 0; v < vocabulary; ++v) {
          const double softmax = std::exp(static_cast<double>(row[v])) / total;
          const double slope = softmax - (v == targets[at] ? 1 : 0) + z * 2 * lse * softmax;
          const double expected = targets[at] < 0 ? 0 : scale * slope;
          const double seen = type == DType::f32 ? gradient.view().row<float>(t)[v]
                                                 : static_cast<float>(gradient.view().row<bf16>(t)[v]);
          EXPECT_NEAR(seen, expected, (type == DType::f32 ? 2e-6 : 0x1p-8) * std::abs(expected) + 1e-7);
        }
      }
    }
  }
}

TEST(ZLoss, EveryGradientAgreesWithFiniteDifferences) {
  constexpr float z = 0.02f;  // as much as the cross-entropy
  ReferenceLlama llama("gqa-tied");
  const BackwardOptions options{.loss_scale = llama.loss_scale(), .z_loss = z};
  llama.model.loss_and_gradients(llama.weights, llama.batch(), options, llama.gradients);
  const ParameterSet unused = llama.model.make_gradients();
  test::expect_finite_differences(llama, [&] {
    const LossSums sums = llama.model.loss_and_gradients(llama.weights, llama.batch(), options, unused);
    return (sums.cross_entropy + static_cast<double>(z) * sums.squared_log_sum_exp) /
           static_cast<double>(llama.inputs.size());
  });
}

}  // namespace
}  // namespace nibble
