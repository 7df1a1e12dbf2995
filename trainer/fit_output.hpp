// The answer of `nibble fit`, for people and for programs.
//
// Not for the page with figures (fit_page.hpp).
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "trainer/law_fit.hpp"

namespace nibble {

/// Constants and efficiencies with their intervals, residuals, what was held out, left out and doubted.
std::string fit_text(const LawFit& fit);
/// The same, and every run with its measured and its predicted loss.
nlohmann::ordered_json fit_json(const LawFit& fit);

}  // namespace nibble
