// The self-test of the quantizers: it passes for everything that recipes use, and fails for arithmetic that is broken
// in one place, naming the property.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "quant/quantizers.hpp"
#include "quant/self_test.hpp"
#include "quant/self_test_checks.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

using namespace quantizers;

Stream& stream() {
  static Stream one;
  return one;
}

std::string described(const std::vector<SelfTestFailure>& failures) {
  std::string text;
  for (const SelfTestFailure& f : failures)
    text += f.what + ": " + f.property + ": " + f.seen + ", allowed " + f.allowed + "\n";
  return text;
}

void expect_failure(const std::vector<SelfTestFailure>& failures, const std::string& property) {
  const bool found = std::ranges::any_of(
      failures, [&](const SelfTestFailure& f) { return f.property.find(property) != std::string::npos; });
  EXPECT_TRUE(found) << property << " is not among\n" << described(failures);
}

QuantizerRow unknown(const Quantizer& quantizer) { return {.name = "broken", .quantizer = quantizer}; }

TEST(SelfTest, PassesForEveryElementFormat) {
  for (const ElementFormat* format : element_formats()) EXPECT_EQ(described(self_test(stream(), *format)), "");
}

TEST(SelfTest, PassesForEveryRecipe) {
  std::vector<Recipe> all = recipes();
  for (const char* bits : {"1", "2", "3", "4", "5", "6", "7", "8"}) {
    all.push_back(find_recipe(std::string("quest-w") + bits + "a16"));
    all.push_back(find_recipe(std::string("quest-w") + bits + "a16-plain"));
    if (*bits != '1') all.push_back(find_recipe(std::string("ste-w") + bits + "a" + bits));
  }
  EXPECT_EQ(described(self_test(stream(), all, {640, 1792, 14336})), "");
}

TEST(SelfTest, NoticesALargestValueThatIsNoCodes) {
  ElementFormat format = formats::e2m1;
  format.max = 8;
  expect_failure(self_test(stream(), format), "the largest value is a code's");
  format.max = 4;
  expect_failure(self_test(stream(), format), "the largest value is a code's");
}

TEST(SelfTest, NoticesStochasticRoundingThatClips) {
  Quantizer quantizer = nvfp4_stochastic;
  quantizer.divisor = 6;  // E4M3 rounds scales down by 16/17
  expect_failure(self_test(stream(), unknown(quantizer)), "stochastic rounding is unbiased");
  quantizer = mxfp4_three_quarters(Rounding::stochastic);
  quantizer.shrink = 1;
  expect_failure(self_test(stream(), unknown(quantizer)), "stochastic rounding is unbiased");
  quantizer.shrink = 0.75f;
  quantizer.gain = 0.75f;  // 16/9 forgotten
  expect_failure(self_test(stream(), unknown(quantizer)), "stochastic rounding is unbiased");
}

TEST(SelfTest, NoticesABiasBehindEden) {
  Quantizer quantizer = ms_eden(16);
  quantizer.gain = 1.005f;
  expect_failure(self_test(stream(), unknown(quantizer)), "EDEN's correction leaves no bias");
}

TEST(SelfTest, NoticesAnErrorThatIsNotTheKnownOne) {
  for (const Quantizer& known : {nvfp4, quest(4), mx(formats::e2m1, MxScale::ceil), mx(formats::e4m3, MxScale::ceil)}) {
    const auto row = std::ranges::find(quantizer_table(), known, &QuantizerRow::quantizer);
    ASSERT_NE(row, quantizer_table().end());
    QuantizerRow broken = *row;
    broken.quantizer.divisor *= 1.25f;
    expect_failure(self_test(stream(), broken), "the error on normal values is the known one");
  }
}

// The blocks that are worked out by hand belong to a quantizer with all its fields, so the answer is broken instead.
TEST(SelfTest, NoticesABlockThatIsNotAsWorkedOut) {
  const Quantizer plain = mx(formats::e2m1, MxScale::floor);
  EXPECT_FALSE(self_test_checks::worked_block(stream(), plain));
  ElementFormat truncated = formats::e2m1;
  truncated.max = 4;  // a kernel that saturates early
  Quantizer broken = plain;
  broken.element = &truncated;
  EXPECT_TRUE(self_test_checks::worked_block(stream(), plain, broken));
}

TEST(SelfTest, NoticesBlocksThatDoNotStayZeroOrLarge) {
  const auto first = [](const auto& check) { return check ? check->property : std::string(); };
  Quantizer quantizer = quest(4);
  EXPECT_EQ(first(self_test_checks::zero_block(stream(), quantizer)), "");
  ElementFormat shifted = formats::int4;
  shifted.offset = 0.5f;
  quantizer = per_tensor(shifted);  // half-odd levels without epsilon: the scale of zeros is 1
  EXPECT_NE(first(self_test_checks::zero_block(stream(), quantizer)), "");
  quantizer = per_tensor(formats::e4m3);
  quantizer.gain = 0.25f;
  EXPECT_NE(first(self_test_checks::huge_block(stream(), quantizer)), "");
}

TEST(SelfTest, NoticesATransformThatIsNotOrthonormal) {
  Hadamard hadamard = Hadamard::of_order(32, "test");
  hadamard.normalization *= 1.001f;
  expect_failure(self_test(stream(), hadamard), "products of vectors stay");
  hadamard = Hadamard::of_order(12, "test");
  hadamard.entries[5] = -hadamard.entries[5];
  expect_failure(self_test(stream(), hadamard), "products of vectors stay");
}

TEST(SelfTest, NoticesPoisonThatGoesUnseen) {
  Quantizer quantizer = mx(formats::e2m1, MxScale::ceil);
  EXPECT_FALSE(self_test_checks::poisoned_block(stream(), quantizer));
  quantizer.gain = std::numeric_limits<float>::infinity();  // what is no number is everywhere, not in one block
  EXPECT_TRUE(self_test_checks::poisoned_block(stream(), quantizer));
}

TEST(SelfTest, RefusesWithTheQuantizerAndTheProperty) {
  Recipe recipe = find_recipe("quartet2");
  EXPECT_NO_THROW(require_sound(stream(), {recipe}, {}));
  recipe.name = "mine";
  recipe.backward.weight.error = nvfp4_stochastic;
  recipe.backward.weight.error.divisor = 6;
  try {
    require_sound(stream(), {recipe}, {});
    FAIL() << "nothing was refused";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::numerics);
    EXPECT_EQ(error.detail().where, "mine, dy of the weight gradient");
    EXPECT_NE(error.detail().what.find("stochastic rounding is unbiased"), std::string::npos);
    EXPECT_NE(error.detail().seen.find("0.003"), std::string::npos) << error.detail().seen;
  }
}

}  // namespace
}  // namespace nibble
