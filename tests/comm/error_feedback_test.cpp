// Error feedback: what is sent and what stays are what came in.
#include "comm/error_feedback.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>

#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

std::vector<float> random_gradient(uint32_t seed, size_t count) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> gradient(count);
  for (float& value : gradient) value = std::pow(normal(random), 3.0f);
  return gradient;
}

std::vector<float> all_of(const SparseStream& stream) {
  std::vector<float> all(static_cast<size_t>(stream.length()));
  stream.write(all);
  return all;
}

std::vector<float> copy_of(std::span<const float> values) { return {values.begin(), values.end()}; }

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return std::ranges::equal(
      a, b, {}, [](float x) { return std::bit_cast<uint32_t>(x); }, [](float x) { return std::bit_cast<uint32_t>(x); });
}

constexpr Selection selections[] = {
    {Selection::Of::buckets, 4}, {Selection::Of::buckets, 512}, {Selection::Of::all, 3}, {Selection::Of::all, 100}};

TEST(ErrorFeedback, SendsTheReferencesExample) {
  Stream stream(1);
  ErrorFeedback feedback(5);
  // The fifth element only makes the residual of the others the example's.
  const auto step = [&](const std::vector<float>& gradient, int64_t k) {
    const SparseStream sent = feedback.select(stream, gradient, {Selection::Of::all, k}, Wire::f32);
    feedback.commit();
    return sent;
  };
  step({0.02f, 0.1f, -0.05f, 0.2f, 9}, 1);
  EXPECT_EQ(copy_of(feedback.residual()), (std::vector<float>{0.02f, 0.1f, -0.05f, 0.2f, 0}));
  EXPECT_EQ(step({0.1f, -0.5f, 0.3f, 0.05f, 0}, 2), SparseStream(5, {{1, -0.4f}, {2, 0.25f}}))
      << "of equal magnitudes the lower index";
  EXPECT_EQ(copy_of(feedback.residual()), (std::vector<float>{0.02f + 0.1f, 0, 0, 0.25f, 0}));
}

TEST(ErrorFeedback, SentAndResidualAreWhatCameInBitForBit) {
  Stream stream(1);
  constexpr size_t count = 5 * 512 + 77;
  for (const Selection& selection : selections)
    for (const Wire wire : {Wire::f32, Wire::bf16}) {
      ErrorFeedback feedback(count);
      for (uint32_t step = 0; step < 20; ++step) {
        const std::vector<float> gradient = random_gradient(step, count), before = copy_of(feedback.residual());
        const SparseStream sent = feedback.select(stream, gradient, selection, wire);
        EXPECT_TRUE(same_bits(feedback.residual(), before)) << "the residual changed before the step counted";
        feedback.commit();
        std::vector<float> accumulated(count), joined = all_of(sent);
        for (size_t i = 0; i < count; ++i) {
          accumulated[i] = before[i] + gradient[i];
          joined[i] += feedback.residual()[i];
        }
        EXPECT_TRUE(same_bits(joined, accumulated));
        for (const SparseEntry& entry : sent.entries()) {
          EXPECT_EQ(entry.value,
                    wire == Wire::f32 ? accumulated[entry.index] : static_cast<float>(bf16(accumulated[entry.index])));
          if (wire == Wire::f32) {
            EXPECT_EQ(feedback.residual()[entry.index], 0);
          }
        }
      }
    }
}

TEST(ErrorFeedback, SendsWhatTopKSelectsOfResidualAndGradient) {
  Stream stream(1);
  constexpr size_t count = 3 * 512 + 5;
  ErrorFeedback of_buckets(count), of_all(count);
  for (uint32_t step = 0; step < 3; ++step) {
    const std::vector<float> gradient = random_gradient(step, count);
    std::vector<float> a = gradient, b = gradient;
    for (size_t i = 0; i < count; ++i) {
      a[i] = of_buckets.residual()[i] + gradient[i];
      b[i] = of_all.residual()[i] + gradient[i];
    }
    EXPECT_EQ(of_buckets.select(stream, gradient, {Selection::Of::buckets, 4}, Wire::f32),
              top_k_of_buckets(stream, a, 4));
    EXPECT_EQ(of_all.select(stream, gradient, {Selection::Of::all, 50}, Wire::f32), top_k(stream, b, 50));
    of_buckets.commit();
    of_all.commit();
  }
}

TEST(ErrorFeedback, LosesNothingOverManySteps) {
  Stream stream(1);
  constexpr size_t count = 2 * 512;
  constexpr uint32_t steps = 200;
  ErrorFeedback feedback(count);
  std::vector<double> came(count), sent(count);
  double largest = 0;
  for (uint32_t step = 0; step < steps; ++step) {
    const std::vector<float> gradient = random_gradient(step, count);
    for (size_t i = 0; i < count; ++i) {
      came[i] += double{gradient[i]};
      largest = std::max(largest, double{std::fabs(feedback.residual()[i] + gradient[i])});
    }
    const SparseStream now = feedback.select(stream, gradient, {}, Wire::f32);
    for (const SparseEntry& entry : now.entries()) sent[entry.index] += double{entry.value};
    feedback.commit();
  }
  for (size_t i = 0; i < count; ++i)
    EXPECT_NEAR(sent[i] + double{feedback.residual()[i]}, came[i], steps * 0x1p-24 * largest);
}

TEST(ErrorFeedback, ARefusedStepLeavesTheResidual) {
  Stream stream(1);
  constexpr size_t count = 700;
  ErrorFeedback feedback(count), other(count);
  const auto step = [&](ErrorFeedback& which, uint32_t seed) {
    return which.select(stream, random_gradient(seed, count), {}, Wire::f32);
  };
  step(feedback, 1), step(other, 1);
  feedback.commit(), other.commit();
  step(feedback, 2);
  feedback.discard();
  feedback.commit();  // of a step that selected nothing
  EXPECT_EQ(step(feedback, 3), step(other, 3));
  feedback.commit(), other.commit();
  EXPECT_TRUE(same_bits(feedback.residual(), other.residual()));
}

TEST(ErrorFeedback, ListsTheResidualAsThisRanksRow) {
  ErrorFeedback feedback(700);
  StateList list;
  feedback.state(list, "exchange/residual", 2, 3);
  ASSERT_EQ(list.entries().size(), 1u);
  const StateList::Entry& entry = list.entries().front();
  EXPECT_EQ(entry.rows, 3);
  EXPECT_EQ(entry.cols, 700);
  EXPECT_EQ(entry.first, 1400);
  EXPECT_EQ(entry.tensor.data, static_cast<const void*>(feedback.residual().data()));
}

TEST(ErrorFeedback, RefusesASelectionOfNothing) {
  Stream stream(1);
  ErrorFeedback feedback(700);
  const std::vector<float> gradient(700);
  for (const Selection& selection :
       {Selection{Selection::Of::buckets, 0}, Selection{Selection::Of::buckets, 513}, Selection{Selection::Of::all, 0}})
    expect_error(ErrorKind::configuration, {"Top-k"}, [&] { feedback.select(stream, gradient, selection, Wire::f32); });
}

}  // namespace
}  // namespace nibble
