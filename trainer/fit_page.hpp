// A page on a fit: predicted against measured losses, and residuals over size and length.
//
// Not for text and JSON (fit_output.hpp).
#pragma once

#include <string>

#include "trainer/law_fit.hpp"

namespace nibble {

/// One HTML page that needs nothing beside itself.
std::string fit_page(const LawFit& fit);

}  // namespace nibble
