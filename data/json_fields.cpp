#include "data/json_fields.hpp"

#include <fmt/format.h>

#include <cmath>

namespace nibble {

using nlohmann::json;

JsonFields::JsonFields(const json& object, std::string where, ErrorKind kind)
    : object_(object), where_(std::move(where)), kind_(kind) {
  if (!object.is_object())
    throw Error({.kind = kind_,
                 .what = "expected a JSON object",
                 .where = where_,
                 .seen = excerpt(object),
                 .allowed = "{...}",
                 .next = damaged_or_foreign});
}

bool JsonFields::has(const std::string& key) const {
  const auto found = object_.find(key);
  return found != object_.end() && !found->is_null();
}

const json& JsonFields::at(const std::string& key) const {
  const auto found = object_.find(key);
  if (found == object_.end()) refuse(key, "a field is missing", fmt::format("an object with the field \"{}\"", key));
  return *found;
}

int64_t JsonFields::integer(const std::string& key, int64_t minimum, int64_t maximum) const {
  const json& value = at(key);
  const bool fits = value.is_number_unsigned() ? value.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX)
                                               : value.is_number_integer();
  if (!fits || value.get<int64_t>() < minimum || value.get<int64_t>() > maximum)
    refuse(key, "a field has a value that cannot be", fmt::format("a whole number from {} to {}", minimum, maximum));
  return value.get<int64_t>();
}

uint64_t JsonFields::unsigned_integer(const std::string& key) const {
  if (!at(key).is_number_unsigned()) refuse(key, "a field has a value that cannot be", "a whole number, not negative");
  return at(key).get<uint64_t>();
}

double JsonFields::positive(const std::string& key) const {
  const json& value = at(key);
  if (!value.is_number() || !std::isfinite(value.get<double>()) || value.get<double>() <= 0)
    refuse(key, "a field has a value that cannot be", "a number above 0");
  return value.get<double>();
}

double JsonFields::not_negative(const std::string& key) const { return at(key) == 0 ? 0 : positive(key); }

const std::string& JsonFields::text(const std::string& key) const {
  if (!at(key).is_string()) refuse(key, "a field is of another type", "a text");
  return at(key).get_ref<const std::string&>();
}

bool JsonFields::flag(const std::string& key) const {
  if (!at(key).is_boolean()) refuse(key, "a field is of another type", "true or false");
  return at(key).get<bool>();
}

const json& JsonFields::object(const std::string& key) const {
  if (!at(key).is_object()) refuse(key, "a field is of another type", "an object {...}");
  return at(key);
}

const json& JsonFields::array(const std::string& key) const {
  if (!at(key).is_array()) refuse(key, "a field is of another type", "a list [...]");
  return at(key);
}

void JsonFields::refuse(const std::string& key, std::string what, std::string allowed, std::string next) const {
  const auto found = object_.find(key);
  throw Error({.kind = kind_,
               .what = std::move(what),
               .where = fmt::format("{}: \"{}\"", where_, key),
               .seen = found == object_.end() ? "no such field" : excerpt(*found),
               .allowed = std::move(allowed),
               .next = next.empty() ? damaged_or_foreign : std::move(next)});
}

}  // namespace nibble
