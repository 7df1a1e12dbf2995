// Quantizers measured on normal values: all rows of the table as they should be, and a wrong one found.
#include "quant/format_measurement.hpp"

#include <gtest/gtest.h>

#include "quant/quantizers.hpp"

namespace nibble {
namespace {

TEST(FormatMeasurement, FindsEveryRowAsQuoted) {
  Stream stream;
  for (const QuantizerMeasurement& m : measure(stream, quantizer_table(), 16)) {
    EXPECT_FALSE(m.off()) << m.row->name << (m.row->octave ? ", octave" : "") << ": error " << m.error.measured.value
                          << ", misalignment " << m.misalignment.measured.value << " +- " << m.misalignment.allowed;
  }
}

TEST(FormatMeasurement, FindsWhatIsWrong) {
  Stream stream;
  const auto first = [&](const QuantizerRow& row) { return measure(stream, {&row, 1}, 16).front(); };
  QuantizerRow row = quantizer_table()[0];
  ASSERT_EQ(row.name, "mxfp4 floor");
  EXPECT_FALSE(first(row).off());
  row.quantizer.round_up = true;
  EXPECT_TRUE(first(row).error.off());
  row = {.name = "claimed to be unbiased",
         .quantizer = quantizers::stochastic_four_over_six(),
         .misalignment = Quoted{},
         .fours = Quoted{0.1, 1e-3}};
  EXPECT_TRUE(first(row).misalignment.off());
  EXPECT_TRUE(first(row).fours->off());
  row = {.name = "masks", .quantizer = quantizers::quest(3), .masked = Quoted{0.02, 1e-4}};
  EXPECT_TRUE(first(row).masked->off());
}

// The sample is a function of its size alone.
TEST(FormatMeasurement, DoesNotDependOnThreads) {
  const auto error = [](int threads) {
    Stream stream(threads);
    return measure(stream, quantizer_table().subspan(15, 1), 4).front().error.measured;
  };
  EXPECT_EQ(error(1).value, error(2).value);
  EXPECT_EQ(error(1).standard_error, error(2).standard_error);
}

}  // namespace
}  // namespace nibble
