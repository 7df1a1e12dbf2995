// What is measured of inputs that are quantized as they are made; how long it takes is the GPU's own affair.
#include "trainer/input_measurement.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tensor/coded_gemm.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

TEST(InputMeasurement, HasTheBytesOfBothWays) {
  Stream stream(1, Place::device);
  constexpr int64_t tokens = 16, width = 256;
  constexpr CodePair in_blocks{CodeFormat::e4m3, CodeFormat::e4m3, BlockScales::e8m0};
  // Bytes of an element: values in bf16 where tensor cores do not multiply blocks.
  const double mxfp8 = multiplies_codes(stream, in_blocks, width, width) ? 1 + 1.0 / 32 : 2;
  struct Expected {
    const char *recipe, *made_by;
    double written;  ///< beside the matrix
    bool keeps;      ///< the matrix, where it is made at once
    bool largest = false;
  };
  const std::vector<Expected> expected = {{"fp8", "rms_norm", 1, true, true},
                                          {"fp8", "swiglu", 1, true, true},
                                          {"mxfp8", "rms_norm", mxfp8, true},
                                          {"mxfp8", "swiglu", mxfp8, false},
                                          {"quest-w4a4", "rms_norm", 1 + 4 / 8.0 + 1 / 8.0 + 4.0 / width, false},
                                          {"quest-w4a4", "swiglu", 1 + 4.0 / width, false}};
  const std::vector<InputMeasurement> rows =
      measure_inputs(stream,
                     {find_recipe("fp8"), find_recipe("mxfp8"), find_recipe("bf16"), find_recipe("quest-w4a4"),
                      find_recipe("halo1-fp8")},
                     tokens, width);
  ASSERT_EQ(rows.size(), expected.size());  // without those whose input is made first
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto& [recipe, made_by, written, keeps, largest] = expected[i];
    SCOPED_TRACE(std::string(recipe) + " of " + made_by);
    EXPECT_EQ(rows[i].recipe, recipe);
    EXPECT_STREQ(rows[i].made_by, made_by);
    constexpr double elements = tokens * width, read = 4, matrix = 2;
    EXPECT_EQ(rows[i].separate.bytes, elements * (read + (largest ? 3 : 2) * matrix + written));
    EXPECT_EQ(rows[i].at_once.bytes, elements * (read + (largest ? 2 : keeps ? 1 : 0) * matrix + written));
    EXPECT_GT(rows[i].separate.seconds, 0);
    EXPECT_GT(rows[i].at_once.seconds, 0);
  }
  EXPECT_THROW(measure_inputs(stream, {find_recipe("mxfp8")}, tokens, 100), Error);
}

}  // namespace
}  // namespace nibble
