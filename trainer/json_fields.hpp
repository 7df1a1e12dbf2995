// JSON from files that may be damaged or hostile: parsing and typed access to fields, with typed errors.
//
// Not for: writing JSON (nlohmann-json does that itself) and not for YAML (the settings table).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "tensor/error.hpp"

namespace nibble {

/// Parses a whole text. Throws Error{kind} with the position for anything but JSON in UTF-8, for a key that stands
/// twice in one object, and for more than 64 levels.
nlohmann::json parse_json(std::string_view text, const std::string& where, ErrorKind kind);

/// A value as it reads in an error message: one line, at most 80 characters.
std::string excerpt(const nlohmann::json& value);

/// An object whose fields are read one by one; every refusal names the file and the key.
/// Keeps a reference to the object.
class JsonFields {
 public:
  /// Throws Error{kind} when `object` is no JSON object.
  JsonFields(const nlohmann::json& object, std::string where, ErrorKind kind);

  /// Present and not null.
  bool has(const std::string& key) const;
  const nlohmann::json& at(const std::string& key) const;

  // Each throws Error{kind} when the field is missing, of another type or out of range.
  int64_t integer(const std::string& key, int64_t minimum, int64_t maximum) const;
  uint64_t unsigned_integer(const std::string& key) const;
  double positive(const std::string& key) const;
  double not_negative(const std::string& key) const;
  const std::string& text(const std::string& key) const;
  bool flag(const std::string& key) const;
  const nlohmann::json& object(const std::string& key) const;
  const nlohmann::json& array(const std::string& key) const;

  int64_t integer_or(const std::string& key, int64_t fallback, int64_t minimum, int64_t maximum) const {
    return has(key) ? integer(key, minimum, maximum) : fallback;
  }
  double positive_or(const std::string& key, double fallback) const { return has(key) ? positive(key) : fallback; }
  bool flag_or(const std::string& key, bool fallback) const { return has(key) ? flag(key) : fallback; }

  [[noreturn]] void refuse(const std::string& key, std::string what, std::string allowed, std::string next = {}) const;

 private:
  const nlohmann::json& object_;
  std::string where_;
  ErrorKind kind_;
};

}  // namespace nibble
