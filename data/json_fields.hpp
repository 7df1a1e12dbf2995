// Typed access to the fields of JSON from files that may be damaged or hostile, with typed errors.
//
// Not for: parsing (json.hpp), writing JSON (nlohmann-json does that itself) and not for YAML (the settings
// table).
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "data/json.hpp"

namespace nibble {

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
