// Which Nibble and which libraries this program is: for --version, and for the manifest of a checkpoint.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace nibble {

/// "nibble" first, then each library that the results or files can depend on, with the version that is loaded.
std::vector<std::pair<std::string, std::string>> versions();

/// One "name version" on each line.
std::string versions_text();

}  // namespace nibble
