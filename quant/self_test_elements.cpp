// Codes and rounding of element formats.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "quant/arithmetic.hpp"
#include "quant/self_test_checks.hpp"

namespace nibble {
namespace {

using self_test_checks::Check;

bool within_range(const ElementFormat& format, float value) { return std::abs(value) <= format.max; }

/// By value; of the two zeros the positive one.
std::map<float, int> codes_by_value(const ElementFormat& format) {
  std::map<float, int> codes;
  for (int code = 0; code < format.codes(); ++code)
    if (within_range(format, format.value(code))) codes.try_emplace(format.value(code), code);
  return codes;
}

Check code_table(const ElementFormat& format) {
  for (int code = 0; code < format.codes(); ++code) {
    const float value = format.value(code);
    if (!within_range(format, value)) continue;
    const uint32_t back = encode(value, format);
    if (back != static_cast<uint32_t>(code))
      return {{"", "a code's value has this code", fmt::format("{} of {}", back, value), std::to_string(code)}};
  }
  return {};
}

Check largest_value(const ElementFormat& format) {
  float largest = 0;
  for (int code = 0; code < format.codes(); ++code)
    if (std::isfinite(format.value(code))) largest = std::max(largest, format.value(code));
  if (largest == format.max) return {};
  return {{"", "the largest value is a code's", fmt::format("{}", format.max), fmt::format("{}", largest)}};
}

struct Rounded {
  float x, expected;
};

/// Every value, every midpoint and its neighbours, and what saturates.
std::vector<Rounded> rounding_cases(const ElementFormat& format) {
  const std::map<float, int> codes = codes_by_value(format);
  std::vector<Rounded> cases;
  for (auto upper = codes.begin(); upper != codes.end(); ++upper) {
    cases.push_back({upper->first, upper->first});
    if (upper == codes.begin()) continue;
    const auto lower = std::prev(upper);
    const float middle = (lower->first + upper->first) / 2;
    const bool up = format.half_odd() || lower->second % 2 != 0;
    cases.push_back({middle, up ? upper->first : lower->first});
    cases.push_back({std::nextafter(middle, lower->first), lower->first});
    cases.push_back({std::nextafter(middle, upper->first), upper->first});
  }
  for (const float x : {1.5f * format.max, 0x1.fep127f, std::numeric_limits<float>::infinity()}) {
    cases.push_back({x, format.max});
    cases.push_back({-x, codes.begin()->first});
  }
  return cases;
}

Check scalar_rounding(const ElementFormat& format, const std::vector<Rounded>& cases) {
  for (const auto& [x, expected] : cases) {
    const float seen = round_nearest(x, format);
    if (seen != expected)
      return {{"", fmt::format("{} is rounded to nearest", x), fmt::format("{}", seen), fmt::format("{}", expected)}};
  }
  return {};
}

/// The kernel writes the values that scalar arithmetic gives, and codes that stand for them.
Check kernel_rounding(Stream& stream, const ElementFormat& format, const std::vector<Rounded>& cases) {
  constexpr int64_t rows = 19;  // a full strip of lanes, and one that is not
  const int64_t cols = (static_cast<int64_t>(cases.size()) + 7) / 8 * 8;
  const OwnedTensor x(DType::f32, rows, cols), values(DType::f32, rows, cols), restored(DType::f32, rows, cols),
      codes(DType::u8, rows, cols * format.bits() / 8);
  for (int64_t i = 0; i < rows; ++i)
    for (size_t j = 0; j < cases.size(); ++j)
      x.view().row<float>(i)[j] = cases[(j + static_cast<size_t>(i)) % cases.size()].x;
  const Quantization how{.quantizer = {.element = &format}};
  const QuantizedParts parts{.codes = codes};
  quantize(stream, {.values = x}, how, 1, values, {}, parts);
  restore(stream, how.quantizer, parts, restored);
  for (int64_t e = 0; e < rows * cols; ++e) {
    const float from = x.view().as<float>()[e], seen = values.view().as<float>()[e];
    const float expected = round_nearest(from, format), coded = restored.view().as<float>()[e];
    if (bits_of(seen) != bits_of(expected))
      return {{"", fmt::format("the kernel rounds {} as scalar arithmetic does", from), fmt::format("{}", seen),
               fmt::format("{}", expected)}};
    if (coded != expected)
      return {{"", fmt::format("the kernel's code of {} stands for it", expected), fmt::format("{}", coded),
               fmt::format("{}", expected)}};
  }
  return {};
}

}  // namespace

std::vector<SelfTestFailure> self_test(Stream& stream, const ElementFormat& format) {
  std::vector<SelfTestFailure> failures;
  const std::vector<Rounded> cases = rounding_cases(format);
  for (Check check : {largest_value(format), code_table(format), scalar_rounding(format, cases),
                      kernel_rounding(stream, format, cases)}) {
    if (!check) continue;
    check->what = "element format " + std::string(format.name);
    failures.push_back(*std::move(check));
  }
  return failures;
}

}  // namespace nibble
