// The answer of `nibble formats`, for people and for programs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "quant/format_measurement.hpp"

namespace nibble {

/// Element formats, then the measured quantizers; a star marks what is off.
std::string formats_text(const std::vector<QuantizerMeasurement>& measurements);
nlohmann::ordered_json formats_json(const std::vector<QuantizerMeasurement>& measurements);

/// "mxfp4 floor", and of an average over an octave "mxfp4 floor, octave".
std::string full_name(const QuantizerRow& row);

}  // namespace nibble
