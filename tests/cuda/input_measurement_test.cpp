// What is measured of inputs that are quantized as they are made; how long it takes is the GPU's own affair.
#include "trainer/input_measurement.hpp"

#include <gtest/gtest.h>

#include "tensor/error.hpp"

namespace nibble {
namespace {

TEST(InputMeasurement, HasTheBytesOfBothWays) {
  Stream stream(1, Place::device);
  constexpr double elements = 16 * 256;
  const std::vector<InputMeasurement> rows = measure_inputs(
      stream, {find_recipe("fp8"), find_recipe("mxfp8"), find_recipe("bf16"), find_recipe("halo1-fp8")}, 16, 256);
  ASSERT_EQ(rows.size(), 4u);  // without those whose input is made first
  for (const InputMeasurement& row : rows) {
    const double codes = row.recipe == "fp8" ? 1 : 1 + 1.0 / 32;
    EXPECT_EQ(row.separate.bytes, elements * (row.recipe == "fp8" ? 4 + 2 + 2 + 2 + codes : 4 + 2 + 2 + codes));
    EXPECT_EQ(row.at_once.bytes, elements * (row.recipe == "fp8" ? 4 + 2 + 2 + codes : 4 + codes));
    EXPECT_GT(row.separate.seconds, 0);
    EXPECT_GT(row.at_once.seconds, 0);
  }
  EXPECT_STREQ(rows[0].made_by, "rms_norm");
  EXPECT_STREQ(rows[1].made_by, "swiglu");
  EXPECT_THROW(measure_inputs(stream, {find_recipe("mxfp8")}, 16, 100), Error);
}

}  // namespace
}  // namespace nibble
