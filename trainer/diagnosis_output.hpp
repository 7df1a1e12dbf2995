// What `nibble diagnose` prints: tables for people, JSON for programs.
//
// Not for: the measures (gradient_quality.hpp), the page with figures (diagnosis_page.hpp).
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "trainer/gradient_quality.hpp"

namespace nibble {

/// One of the comparisons of a recipe, with what it is called and what it compares.
struct ComparisonKind {
  const char *key, *title, *meaning;
  Comparison GradientQuality::*member;
};
std::span<const ComparisonKind> comparison_kinds();

std::string diagnosis_text(const GradientDiagnosis& diagnosis);
nlohmann::ordered_json diagnosis_json(const GradientDiagnosis& diagnosis);

}  // namespace nibble
