// The frame of every page: what comes before and after the content.
//
// Not for: the look (report_style.hpp).
#pragma once

#include <string>

#include "trainer/html.hpp"

namespace nibble {

/// Opens the document and its body. The page loads nothing beside itself and runs no script.
void begin_page(Html& html, const std::string& title);
/// Closes what is open, behind a line on the program. The whole document.
std::string finish_page(Html& html);

}  // namespace nibble
