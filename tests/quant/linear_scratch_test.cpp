// The working memory of linear operators: what they say they need is enough, and no more.
#include "quant/linear_scratch.hpp"

#include <gtest/gtest.h>

#include "tests/quant/linear_operator.hpp"

namespace nibble {
namespace {

/// All calls of a step, in so much scratch memory; `results` is the type of y and dx.
void run_all_calls(Linear& linear, const LinearOperands& operands, DType results, size_t scratch_bytes) {
  const auto& [spec, x, w, dy] = operands;
  Stream stream(2);
  const LinearCall call{.pass = Pass::training};
  const OwnedTensor scratch(DType::u8, 1, static_cast<int64_t>(scratch_bytes)),
      input = tensor_of(x, DType::bf16), weight = tensor_of(w, DType::bf16), error = tensor_of(dy, DType::bf16),
      y(results, spec.tokens, spec.out), dx(results, spec.tokens, spec.in), dw(DType::f32, spec.out, spec.in);
  LinearSaved saved;
  const Arena arena("saved", [&](Arena& from) { linear.take_saved(from, spec.tokens, saved); });
  linear.forward(stream, call, input, weight, y, {}, &saved, scratch);
  saved.input = input;
  linear.backward(stream, call, error, weight, saved, dx, dw, scratch);
  linear.weight_residual(stream, call, weight, dw, scratch);
}

TEST(LinearScratch, IsEnoughForEveryRecipeAndNotOneLineMore) {
  Stream stream(2);
  for (const Recipe& recipe : recipes())
    for (const bool stays : {false, true}) {
      if (!recipe.quantizes()) continue;
      LinearOperands operands(128, 128, 256);
      operands.spec.input_stays = stays;
      const auto linear = make_linear(recipe, operands.spec);
      const size_t bytes = linear->scratch_bytes(stream, operands.spec.tokens);
      ASSERT_GE(bytes, alignment) << recipe.name;
      for (const DType results : {DType::bf16, DType::f32})
        EXPECT_NO_THROW(run_all_calls(*linear, operands, results, bytes)) << recipe.name << stays;
      EXPECT_THROW(run_all_calls(*linear, operands, DType::bf16, bytes - alignment), Error) << recipe.name << stays;
    }
}

TEST(LinearScratch, HoldsOperandsInTheTypeThatTheirProductMultiplies) {
  Stream stream(2);
  const auto bytes = [&](const char* recipe, int64_t in, int64_t out) {
    const LinearSpec spec{.name = "up", .in = in, .out = out, .tokens = 1024};
    return make_linear(find_recipe(recipe), spec)->scratch_bytes(stream, spec.tokens);
  };
  constexpr int64_t in = 512, out = 4096, tokens = 1024;
  // x, w and the error dy; nothing is turned back.
  EXPECT_EQ(bytes("fp8", in, out), size_t{2} * (tokens * in + in * out + tokens * out));
  // In bytes; x is saved as it is multiplied.
  EXPECT_EQ(bytes("halo0-int8", in, out), size_t{in * out + tokens * out});
  // In f32, with sums that are rounded into dx.
  EXPECT_EQ(bytes("sfp4", in, out), size_t{4} * (tokens * in + in * out + tokens * out + tokens * in));
}

TEST(LinearScratch, OfForwardPassesAloneHoldsBothOperands) {
  Stream stream(2);
  const auto linear = make_linear(find_recipe("quartet2"), {.name = "up", .in = 128, .out = 256});
  EXPECT_EQ(linear->scratch_bytes(stream, 64), size_t{2} * 128 * (64 + 256));
}

TEST(LinearScratch, RefusesWhatDoesNotFitAndCountsTheMostThatIsTakenAtOneTime) {
  LinearScratch counting = LinearScratch::counting();
  const auto mark = counting.mark();
  EXPECT_TRUE(counting.take(DType::f32, 3, 17));
  counting.back_to(mark);
  counting.take(DType::bf16, 1, 32);
  EXPECT_EQ(counting.most(), size_t{3} * 128);
  const OwnedTensor memory(DType::u8, 1, 128);
  LinearScratch scratch(memory);
  EXPECT_EQ(scratch.take(DType::f32, 2, 16).data, memory.view().data);
  EXPECT_THROW(scratch.take(DType::u8, 1, 1), Error);
}

}  // namespace
}  // namespace nibble
