#include "trainer/units.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <span>
#include <string>
#include <utility>

namespace nibble {
namespace {

/// A suffix that multiplies by `factor` * 10^`exponent`.
struct Unit {
  std::string_view suffix;
  int exponent = 0;
  int factor = 1;
};

constexpr Unit scales[] = {{"", 0}, {"k", 3}, {"M", 6}, {"B", 9}, {"T", 12}};
constexpr Unit shares[] = {{"", 0}, {"%", -2}};
constexpr Unit durations[] = {{"", 0}, {"s", 0}, {"min", 0, 60}, {"h", 0, 3600}, {"d", 0, 86400}};
constexpr Unit percent[] = {{"%", -2}};

/// A decimal number split into what stands before its exponent, the exponent, and its unit.
struct Decimal {
  std::string_view digits;  ///< "-0.75"
  int exponent = 0;
  Unit unit{};
};

bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string_view without_spaces(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

Decimal split(std::string_view text, std::span<const Unit> units) {
  text = without_spaces(text);
  size_t at = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  size_t count = 0;
  for (bool point = false; at < text.size(); ++at) {
    if (is_digit(text[at])) ++count;
    else if (text[at] == '.' && !point) point = true;
    else break;
  }
  if (count == 0) throw ValueError{"not a number"};
  // from_chars knows no leading plus sign.
  Decimal decimal{.digits = text.substr(text[0] == '+' ? 1 : 0, at - (text[0] == '+' ? 1 : 0))};
  if (at < text.size() && (text[at] == 'e' || text[at] == 'E')) {
    const char* begin = text.data() + at + 1;
    const char* end = text.data() + text.size();
    if (begin < end && *begin == '+') ++begin;
    const auto [rest, error] = std::from_chars(begin, end, decimal.exponent);
    // A bound far beyond any double, so that adding a unit's exponent cannot overflow.
    if (error != std::errc() || decimal.exponent < -9999 || decimal.exponent > 9999) throw ValueError{"not a number"};
    at = static_cast<size_t>(rest - text.data());
  }
  const std::string_view suffix = without_spaces(text.substr(at));
  for (const Unit& unit : units) {
    if (unit.suffix != suffix) continue;
    decimal.unit = unit;
    return decimal;
  }
  throw ValueError{suffix.empty() ? "a unit is missing" : fmt::format("unknown unit '{}'", suffix)};
}

double to_double(const Decimal& decimal) {
  const std::string text = fmt::format("{}e{}", decimal.digits, decimal.exponent + decimal.unit.exponent);
  double value = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || rest != text.data() + text.size())
    throw ValueError{"a number that is too large or too small"};
  return value * decimal.unit.factor;
}

int64_t to_count(const Decimal& decimal) {
  // Digits are shifted as text: a double would lose the last ones of a large count.
  std::string whole, fraction;
  bool negative = false, point = false;
  for (const char c : decimal.digits) {
    if (c == '-') negative = true;
    else if (c == '.') point = true;
    else (point ? fraction : whole) += c;
  }
  constexpr int most_digits = 19;  // of a 64-bit integer
  int shift = decimal.exponent + decimal.unit.exponent;
  for (; shift > 0; --shift) {
    if (whole.size() > 10 * most_digits) break;
    whole += fraction.empty() ? '0' : fraction[0];
    if (!fraction.empty()) fraction.erase(0, 1);
  }
  for (; shift < 0 && !whole.empty(); ++shift) {
    fraction.insert(fraction.begin(), whole.back());
    whole.pop_back();
  }
  if (fraction.find_first_not_of('0') != std::string::npos) throw ValueError{"not a whole number"};
  whole.erase(0, std::min(whole.find_first_not_of('0'), whole.size()));
  if (whole.empty()) return 0;
  if (negative) whole.insert(whole.begin(), '-');
  int64_t value = 0;
  const auto [rest, error] = std::from_chars(whole.data(), whole.data() + whole.size(), value);
  if (error != std::errc() || rest != whole.data() + whole.size()) throw ValueError{"a number that is too large"};
  return value;
}

}  // namespace

int64_t parse_count(std::string_view text) { return to_count(split(text, scales)); }

double parse_real(std::string_view text) { return to_double(split(text, scales)); }

double parse_share(std::string_view text) { return to_double(split(text, shares)); }

double parse_duration(std::string_view text) { return to_double(split(text, durations)); }

StepsOrShare parse_steps_or_share(std::string_view text) {
  if (text.find('%') == std::string_view::npos) return StepsOrShare::steps(to_count(split(text, scales)));
  return StepsOrShare::share(to_double(split(text, percent)));
}

std::string format_real(double value) { return fmt::format("{}", value); }

std::string format_share(double value) {
  constexpr int whole_percents = 3, readable_digits = 16;
  for (int digits = whole_percents; digits < readable_digits; ++digits) {
    const std::string text = fmt::format("{:.{}g}%", value * 100, digits);
    if (parse_share(text) == value) return text;
  }
  // The product with 100 was rounded: shift the shortest decimal's exponent instead.
  char text[32];
  const char* end = std::to_chars(text, text + sizeof text, value, std::chars_format::scientific).ptr;
  const std::string_view decimal(text, end);
  const size_t mark = decimal.find('e');
  return fmt::format("{}e{}%", decimal.substr(0, mark), std::stoi(std::string(decimal.substr(mark + 1))) + 2);
}

std::string format_duration_setting(double seconds) {
  if (seconds == 0) return "0s";
  for (const auto& [suffix, length] : {std::pair("d", 86400), std::pair("h", 3600), std::pair("min", 60)})
    if (std::fmod(seconds, length) == 0) return fmt::format("{}{}", format_real(seconds / length), suffix);
  return format_real(seconds) + "s";
}

std::string format_steps_or_share(const StepsOrShare& value) {
  return value.is_share ? format_share(value.value) : fmt::format("{}", static_cast<int64_t>(value.value));
}

int64_t StepsOrShare::of(int64_t total) const {
  return is_share ? std::llround(value * static_cast<double>(total)) : static_cast<int64_t>(value);
}

}  // namespace nibble
