// nibble formats: what its answer says, and what it refuses.
#include <gtest/gtest.h>

#include "tests/trainer/run_program.hpp"
#include "trainer/formats_output.hpp"

namespace nibble {
namespace {

QuantizerMeasurement measurement(double error) {
  return {.row = &quantizer_table()[0],
          .error = {.measured = {error, 1e-5}, .expected = 0.01322, .allowed = 0.0001322},
          .misalignment = {.measured = {0.0196, 1e-5}},
          .cosine = 0.99};
}

TEST(Formats, AStarMarksWhatIsOff) {
  EXPECT_EQ(formats_text({measurement(0.0133)}).find("0.01330000*"), std::string::npos);
  EXPECT_NE(formats_text({measurement(0.0134)}).find("0.01340000*"), std::string::npos);
}

TEST(Formats, JsonHasEveryElementAndTheJudgement) {
  const auto json = formats_json({measurement(0.0134), measurement(0.0133)});
  EXPECT_EQ(json.at("elements").size(), element_formats().size());
  EXPECT_EQ(json.at("elements")[0].at("largest"), 6);
  EXPECT_EQ(json.at("quantizers")[0].at("error").at("off"), true);
  EXPECT_EQ(json.at("quantizers")[1].at("off"), false);
  EXPECT_FALSE(json.at("quantizers")[0].at("misalignment").contains("expected"));
}

TEST(Formats, ASampleWithoutSpreadIsRefused) {
  const Ended ended = nibble("formats --samples 1000");
  EXPECT_EQ(ended.code, 2);
  expect_said(ended, "4194304");
}

}  // namespace
}  // namespace nibble
