// Capacity at published errors, and errors of recipes' operands.
#include "trainer/capacity.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "quant/quantizers.hpp"

namespace nibble {
namespace {

TEST(Capacity, OfPublishedErrors) {
  const CapacityConstants& llama = published_capacity()[0];
  EXPECT_NEAR(capacity(.0115429, llama), .8196, 5e-5);
  EXPECT_NEAR(capacity(.0126849, llama), .8103, 5e-5);
  EXPECT_NEAR(capacity(.11885, llama), .4445, 1e-4);
  EXPECT_NEAR(capacity(.00390625, llama), .901, 5e-4);
  EXPECT_NEAR(capacity(8.77e-5, llama), .989, 5e-4);
  EXPECT_NEAR(capacity(8.77e-5, published_capacity()[1]) / capacity(8.77e-5, {"", "", 1, .37, 1.24}), .84, 1e-12);
}

TEST(Capacity, EndsAtOneAndAtNothing) {
  EXPECT_EQ(capacity(0, published_capacity()[0]), 1);
  EXPECT_EQ(capacity(1, published_capacity()[0]), 0);
  EXPECT_EQ(capacity(1.5, published_capacity()[0]), 0);
  EXPECT_EQ(log_quarter(std::pow(4, -3)), 3);
}

TEST(Capacity, ErrorsOfOperands) {
  Stream stream(1);
  const ForwardRecipe int4 = find_recipe("quest-w4a16").forward, learned = find_recipe("lsq-w4a4").forward;
  const Quantizer operands[] = {int4.weight, int4.input, learned.weight, quantizers::nvfp4, int4.weight};
  const std::vector<std::optional<double>> errors = gaussian_errors(stream, operands, 1);
  ASSERT_EQ(errors.size(), 5u);
  EXPECT_NEAR(errors[0].value(), .01154, 2e-4);  // Lloyd and Max's uniform quantizer with 16 levels
  EXPECT_EQ(errors[1], 0);
  EXPECT_FALSE(errors[2]);
  EXPECT_NEAR(errors[3].value(), .00905, 1e-4);
  EXPECT_EQ(errors[4], errors[0]);
}

TEST(Capacity, FactsOfFormats) {
  const FormatFacts int4 = format_facts(find_recipe("quest-w4a8").forward);
  EXPECT_EQ(int4.bits[0], 4);
  EXPECT_EQ(int4.bits[1], 8);
  EXPECT_FALSE(int4.exponent_bits);
  const FormatFacts mxfp4 = format_facts(find_recipe("mxfp4-rtn").forward);
  EXPECT_EQ(mxfp4.exponent_bits, 2);
  EXPECT_EQ(mxfp4.mantissa_bits, 1);
  EXPECT_EQ(mxfp4.block, 32);
  EXPECT_EQ(format_facts(find_recipe("nvfp4-nvidia").forward).block, 256);  // squares of 16
  EXPECT_NEAR(std::log2(format_facts(find_recipe("fp8-row").forward).block.value()), 13.1567, 1e-9);
  EXPECT_FALSE(format_facts(find_recipe("fp8").forward).block);
  EXPECT_EQ(format_facts(find_recipe("bf16").forward).bits[0], 16);
}

}  // namespace
}  // namespace nibble
