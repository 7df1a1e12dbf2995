// Parses JSON that may be damaged or hostile, with typed errors.
//
// Not for: typed access to fields (json_fields.hpp) and not for writing JSON (nlohmann-json does that itself).
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "tensor/error.hpp"

namespace nibble {

/// The next step for a file whose contents cannot be.
inline constexpr const char* damaged_or_foreign = "the file is damaged or of another kind: fetch or make it again";

/// Parses a whole text. Throws Error{kind} with the position for anything but JSON in UTF-8, for a key that stands
/// twice in one object, and for more than 64 levels.
nlohmann::json parse_json(std::string_view text, const std::string& where, ErrorKind kind);

/// A value as it reads in an error message: one line, at most 80 characters.
std::string excerpt(const nlohmann::json& value);

}  // namespace nibble
