// The figures of `nibble diagnose` as one HTML page that loads nothing.
//
// Not for: numbers as tables (diagnosis_output.hpp), drawing (report_figure.hpp).
#pragma once

#include <string>

#include "trainer/gradient_quality.hpp"

namespace nibble {

/// `batch`: a line on what was measured, under the heading.
std::string diagnosis_page(const GradientDiagnosis& diagnosis, const std::string& title, const std::string& batch);

}  // namespace nibble
