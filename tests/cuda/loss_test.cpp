// The fused cross-entropy on a device against the CPU's kernel.
#include "model/loss.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "tests/cuda/on_device.hpp"

namespace nibble {
namespace {

using testing::drawn, testing::on_device, testing::on_host, testing::same_bits;

class LossOnDevice : public ::testing::Test {
 protected:
  Stream host{2}, device{2, Place::device};

  OwnedTensor targets_there(std::vector<int32_t>& targets) {
    return on_device(device, Tensor(targets.data(), 1, std::ssize(targets)));
  }
};

/// Every fifth token does not count.
std::vector<int32_t> targets_of(int64_t tokens, int64_t vocabulary) {
  std::vector<int32_t> targets;
  for (int64_t t = 0; t < tokens; ++t)
    targets.push_back(t % 5 == 3 ? -1 : static_cast<int32_t>((t * 7919 + vocabulary - 1) % vocabulary));
  return targets;
}

float element(const Tensor& x, int64_t row, int64_t col) {
  return x.dtype == DType::bf16 ? static_cast<float>(x.row<bf16>(row)[col]) : x.row<float>(row)[col];
}

enum class Gradient { none, apart, in_place };

TEST_F(LossOnDevice, AgreesWithTheHosts) {
  constexpr TokenObjective objective{.scale = 0.25f, .z = 1e-3f};
  for (const auto& [tokens, vocabulary] : {std::pair<int64_t, int64_t>{1, 1}, {4, 5}, {4, 512}, {2, 4096}, {4, 9001}})
    for (const int64_t padding : {0, 3})
      for (const DType type : {DType::f32, DType::bf16})
        for (const Gradient gradient : {Gradient::none, Gradient::apart, Gradient::in_place}) {
          if (gradient == Gradient::in_place && type == DType::bf16) continue;
          SCOPED_TRACE(std::to_string(tokens) + " x " + std::to_string(vocabulary) + " + " + std::to_string(padding) +
                       ", " + std::string(name(type)) + ", gradient " + std::to_string(static_cast<int>(gradient)));
          std::vector<int32_t> targets = targets_of(tokens, vocabulary);
          const OwnedTensor whole = drawn(DType::f32, tokens, vocabulary + padding, 1);
          const OwnedTensor whole_there = on_device(device, whole), targets_on_device = targets_there(targets);
          const Tensor logits = whole.view().slice_cols(0, vocabulary),
                       logits_there = whole_there.view().slice_cols(0, vocabulary);
          const OwnedTensor dlogits(type, tokens, vocabulary),
              dlogits_apart(type, tokens, vocabulary + padding, "test", Place::device),
              statistics(DType::f32, 2, tokens, "test", Place::device);
          const Tensor dlogits_there = gradient == Gradient::none    ? Tensor()
                                       : gradient == Gradient::apart ? dlogits_apart.view().slice_cols(0, vocabulary)
                                                                     : logits_there;
          std::vector<float> losses(targets.size()), log_sum_exps(targets.size());
          softmax_cross_entropy(host, logits, targets, objective, losses, log_sum_exps, dlogits);
          auto* const statistics_there = statistics.view().on_device<float>();
          softmax_cross_entropy(device, logits_there, {targets_on_device.view().on_device<int32_t>(), targets.size()},
                                objective, {statistics_there, targets.size()},
                                {statistics_there + tokens, targets.size()}, dlogits_there);
          const OwnedTensor seen = on_host(device, statistics);
          for (int64_t t = 0; t < tokens; ++t) {
            const auto at = static_cast<size_t>(t);
            EXPECT_NEAR(seen.view().row<float>(0)[t], losses[at], 2e-6);
            EXPECT_NEAR(seen.view().row<float>(1)[t], log_sum_exps[at], 2e-6);
          }
          if (gradient == Gradient::none) {
            EXPECT_TRUE(same_bits(on_host(device, whole_there), whole));
            continue;
          }
          const OwnedTensor gradients = on_host(device, dlogits_there);
          for (int64_t t = 0; t < tokens; ++t)
            for (int64_t v = 0; v < vocabulary; ++v) {
              const float expected = element(dlogits, t, v);
              // A last bit of bf16 may differ; the target's gradient is a difference of numbers up to 1 / 4.
              const float relative = type == DType::f32 ? 1e-6f : 0x1p-7f;
              ASSERT_NEAR(element(gradients, t, v), expected, relative * std::abs(expected) + 1e-7f) << t << ", " << v;
            }
        }
}

TEST_F(LossOnDevice, GivesTheSameBitsEveryTime) {
  std::vector<int32_t> targets = targets_of(6, 5000);
  const OwnedTensor logits = on_device(device, drawn(DType::f32, 6, 5000, 2)),
                    targets_on_device = targets_there(targets);
  const auto run = [&] {
    OwnedTensor results(DType::f32, 8, 5000, "test", Place::device);
    auto* const statistics = results.view().on_device<float>() + 6 * 5000;
    softmax_cross_entropy(device, logits, {targets_on_device.view().on_device<int32_t>(), 6}, {.scale = 1},
                          {statistics, 6}, {statistics + 6, 6}, results.view().slice_rows(0, 6));
    return on_host(device, results);
  };
  EXPECT_TRUE(same_bits(run(), run()));
}

TEST_F(LossOnDevice, WhatIsNotFiniteReachesTheLoss) {
  std::vector<int32_t> targets = {0, 0, 0};
  const OwnedTensor logits(DType::f32, 3, 1000), statistics(DType::f32, 2, 3, "test", Place::device);
  logits.view().row<float>(0)[777] = NAN;
  logits.view().row<float>(1)[777] = INFINITY;
  for (int64_t v = 1; v < 1000; ++v) logits.view().row<float>(2)[v] = -INFINITY;
  const OwnedTensor there = on_device(device, logits), targets_on_device = targets_there(targets);
  auto* const statistics_there = statistics.view().on_device<float>();
  softmax_cross_entropy(device, there, {targets_on_device.view().on_device<int32_t>(), 3}, {.scale = 1},
                        {statistics_there, 3}, {statistics_there + 3, 3}, {});
  const OwnedTensor seen = on_host(device, statistics);
  EXPECT_TRUE(std::isnan(seen.view().row<float>(0)[0]));
  EXPECT_TRUE(std::isnan(seen.view().row<float>(0)[1]));
  EXPECT_EQ(seen.view().row<float>(0)[2], 0) << "the only token that can be";
}

// The head's products and the losses of a device, in chunks and groups of tokens.
TEST_F(LossOnDevice, SumsOfTheHead) {
  constexpr int64_t tokens = 70, vocabulary = 90, width = 16;
  const OwnedTensor x = drawn(DType::bf16, tokens, width, 3), head = drawn(DType::bf16, vocabulary, width, 4);
  std::vector<int32_t> targets = targets_of(tokens, vocabulary);
  const OwnedTensor targets_on_device = targets_there(targets);
  struct Result {
    LossSums sums;
    OwnedTensor dx, dhead;
  };
  const auto run = [&](Stream& stream, const Tensor& of, const Tensor& weights, std::span<const int32_t> to) {
    LossScratch scratch;
    const Arena arena(
        "scratch", [&](Arena& memory) { scratch = LossScratch(memory, tokens, vocabulary, DType::bf16, true); },
        stream.place());
    scratch.logits = scratch.logits.slice_rows(0, 32);
    scratch.dlogits = scratch.dlogits.slice_rows(0, 64);
    Result result{{},
                  OwnedTensor(DType::bf16, tokens, width, "test", stream.place()),
                  OwnedTensor(DType::f32, vocabulary, width, "test", stream.place())};
    const LossGradients gradients{{.scale = 0.5f, .z = 0.01f}, result.dx, result.dhead};
    head_loss(stream, of, weights, to, scratch, &gradients);
    result.sums = loss_sums(stream, scratch, tokens);
    return result;
  };
  const Result here = run(host, x, head, targets),
               there = run(device, on_device(device, x), on_device(device, head),
                           {targets_on_device.view().on_device<int32_t>(), targets.size()});
  EXPECT_NEAR(there.sums.cross_entropy, here.sums.cross_entropy, 1e-6 * here.sums.cross_entropy);
  EXPECT_NEAR(there.sums.squared_log_sum_exp, here.sums.squared_log_sum_exp, 1e-6 * here.sums.squared_log_sum_exp);
  const OwnedTensor dx = on_host(device, there.dx), dhead = on_host(device, there.dhead);
  for (int64_t i = 0; i < dx.view().size(); ++i) {
    const auto expected = static_cast<float>(here.dx.view().as<bf16>()[i]);
    ASSERT_NEAR(static_cast<float>(dx.view().as<bf16>()[i]), expected, 0x1p-7f * std::abs(expected) + 1e-3f) << i;
  }
  for (int64_t i = 0; i < dhead.view().size(); ++i)
    ASSERT_NEAR(dhead.view().as<float>()[i], here.dhead.view().as<float>()[i], 1e-3f) << i;
}

}  // namespace
}  // namespace nibble
