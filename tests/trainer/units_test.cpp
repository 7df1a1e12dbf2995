#include "trainer/units.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace nibble {
namespace {

/// What parsing says is wrong, or an empty text.
template <class Parse>
std::string complaint(Parse parse, std::string_view text) {
  try {
    parse(text);
  } catch (const ValueError& error) {
    return error.what;
  }
  return "";
}

TEST(Units, CountsScaleByDecimalUnits) {
  EXPECT_EQ(parse_count("262144"), 262144);
  EXPECT_EQ(parse_count("0"), 0);
  EXPECT_EQ(parse_count("-3"), -3);
  EXPECT_EQ(parse_count("+3"), 3);
  EXPECT_EQ(parse_count("2k"), 2000);
  EXPECT_EQ(parse_count("1.5M"), 1500000);
  EXPECT_EQ(parse_count("0.75B"), 750000000);
  EXPECT_EQ(parse_count("15T"), 15000000000000);
  EXPECT_EQ(parse_count(" 2 k "), 2000);
  EXPECT_EQ(parse_count("1e6"), 1000000);
  EXPECT_EQ(parse_count("2.5e1k"), 25000);
  EXPECT_EQ(parse_count("3.000"), 3);
  EXPECT_EQ(parse_count("1200e-2"), 12);
}

TEST(Units, CountsKeepEveryDigit) {
  EXPECT_EQ(parse_count("9007199254740993"), 9007199254740993);  // 2^53 + 1, which a double cannot hold
  EXPECT_EQ(parse_count("9223372036854775807"), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(parse_count("-9223372036854775808"), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(parse_count("9007199.254740993B"), 9007199254740993);
}

TEST(Units, CountsThatAreNoneAreRefused) {
  EXPECT_EQ(complaint(parse_count, "1.0005k"), "not a whole number");
  EXPECT_EQ(complaint(parse_count, "0.5"), "not a whole number");
  EXPECT_EQ(complaint(parse_count, "15e-1"), "not a whole number");
  EXPECT_EQ(complaint(parse_count, "2q"), "unknown unit 'q'");
  EXPECT_EQ(complaint(parse_count, "2m"), "unknown unit 'm'");  // milli to some, million to others
  EXPECT_EQ(complaint(parse_count, "10%"), "unknown unit '%'");
  EXPECT_EQ(complaint(parse_count, "1.2.3"), "unknown unit '.3'");
  EXPECT_EQ(complaint(parse_count, "1_000"), "unknown unit '_000'");
  EXPECT_EQ(complaint(parse_count, "9223372036854775808"), "a number that is too large");
  EXPECT_EQ(complaint(parse_count, "1e300"), "a number that is too large");
  for (const char* text : {"", " ", "k", "-", ".", "many", "nan", "inf", "0x10k1", "1e", "1e99999", "1e-2147483648"})
    EXPECT_NE(complaint(parse_count, text), "") << text;
}

TEST(Units, RealsAreTheNearestDouble) {
  EXPECT_EQ(parse_real("1.2e-3"), 1.2e-3);
  EXPECT_EQ(parse_real("0.1"), 0.1);
  EXPECT_EQ(parse_real("10k"), 10000.0);
  EXPECT_EQ(parse_real("0.0012k"), 1.2);
  EXPECT_EQ(parse_real("-.5"), -0.5);
  for (const char* text : {"nan", "inf", "-inf", "1e999", "0.1x", "1,5"})
    EXPECT_NE(complaint(parse_real, text), "") << text;
}

TEST(Units, SharesTakePercent) {
  EXPECT_EQ(parse_share("10%"), 0.1);
  EXPECT_EQ(parse_share("7%"), 0.07);  // 7 / 100 and 7 * 0.01 are both another double for some values
  EXPECT_EQ(parse_share("0.78125%"), 0.0078125);
  EXPECT_EQ(parse_share("0.25"), 0.25);
  EXPECT_EQ(complaint(parse_share, "10%%"), "unknown unit '%%'");
}

TEST(Units, DurationsAreSeconds) {
  EXPECT_EQ(parse_duration("90s"), 90);
  EXPECT_EQ(parse_duration("30min"), 1800);
  EXPECT_EQ(parse_duration("1.5h"), 5400);
  EXPECT_EQ(parse_duration("1d"), 86400);
  EXPECT_EQ(parse_duration("45"), 45);
  EXPECT_EQ(complaint(parse_duration, "30m"), "unknown unit 'm'");
}

TEST(Units, StepsOrShare) {
  EXPECT_EQ(parse_steps_or_share("2k"), StepsOrShare::steps(2000));
  EXPECT_EQ(parse_steps_or_share("10%"), StepsOrShare::share(0.1));
  EXPECT_EQ(parse_steps_or_share("0"), StepsOrShare::steps(0));
  EXPECT_EQ(complaint(parse_steps_or_share, "0.1"), "not a whole number");
  EXPECT_EQ(complaint(parse_steps_or_share, "10%k"), "unknown unit '%k'");
  EXPECT_EQ(StepsOrShare::steps(2000).of(100), 2000);
  EXPECT_EQ(StepsOrShare::share(0.1).of(2861), 286);
  EXPECT_EQ(StepsOrShare::share(0.29).of(100), 29);  // 0.29 * 100 is 28.999999999999996
}

TEST(Units, FormattedValuesReadBackExactly) {
  EXPECT_EQ(format_share(0.1), "10%");
  EXPECT_EQ(format_share(0.0078125), "0.78125%");
  EXPECT_EQ(format_duration_setting(1800), "30min");
  EXPECT_EQ(format_duration_setting(7200), "2h");
  EXPECT_EQ(format_duration_setting(86400), "1d");
  EXPECT_EQ(format_duration_setting(90), "90s");
  EXPECT_EQ(format_duration_setting(0), "0s");
  EXPECT_EQ(format_real(1.2e-3), "0.0012");
  EXPECT_EQ(format_steps_or_share(StepsOrShare::steps(2000)), "2000");
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> exponent(-12, 0), seconds(0, 1e6);
  for (int i = 0; i < 2000; ++i) {
    const double share = std::pow(10, exponent(random));
    ASSERT_EQ(parse_share(format_share(share)), share) << format_share(share);
    const double duration = seconds(random);
    ASSERT_EQ(parse_duration(format_duration_setting(duration)), duration);
    ASSERT_EQ(parse_real(format_real(share)), share);
  }
}

}  // namespace
}  // namespace nibble
