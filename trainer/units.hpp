// Numbers as people write them in a configuration: 0.75B, 2k, 10%, 30min.
//
// Scaling is decimal and exact: the unit shifts the exponent of the text before it becomes a number, so 0.75B is
// exactly 750000000 and 7% exactly 0.07. Not for YAML and not for ranges (trainer/settings_table.hpp).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "trainer/settings.hpp"

namespace nibble {

/// Why a text is no such value; the caller, who knows key, line and allowed values, makes an Error of it.
struct ValueError {
  std::string what;  ///< "not a whole number", "unknown unit 'q'"
};

/// "262144", "2k", "0.75B", "1e6": whole after scaling (k = 10^3, M = 10^6, B = 10^9, T = 10^12).
/// Throws ValueError: not a number, not whole, unknown unit, beyond 64 bits.
int64_t parse_count(std::string_view text);

/// "1.2e-3", "500000", also with k, M, B, T. Throws ValueError; infinities and NaN are not numbers here.
double parse_real(std::string_view text);

/// "10%" or "0.1". Throws ValueError.
double parse_share(std::string_view text);

/// Seconds from "90s", "30min", "2h", "1d" or a plain number of seconds. Throws ValueError.
double parse_duration(std::string_view text);

/// "2k" steps or "10%" of all steps. Throws ValueError, also for a fraction without %, which could mean either.
StepsOrShare parse_steps_or_share(std::string_view text);

/// The shortest text that parses to the same value.
std::string format_real(double value);
std::string format_share(double value);               ///< with %
std::string format_duration_setting(double seconds);  ///< with the largest unit that leaves a whole number
std::string format_steps_or_share(const StepsOrShare& value);

}  // namespace nibble
