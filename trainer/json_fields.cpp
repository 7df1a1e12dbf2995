#include "trainer/json_fields.hpp"

#include <fmt/format.h>

#include <cmath>
#include <set>
#include <vector>

namespace nibble {

using nlohmann::json;

json parse_json(std::string_view text, const std::string& where, ErrorKind kind) {
  constexpr int deepest = 64;
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::object_start || event == json::parse_event_t::array_start) {
      if (depth >= deepest)
        throw Error({.kind = kind,
                     .what = "JSON is nested too deeply",
                     .where = where,
                     .allowed = fmt::format("{} levels", deepest)});
    }
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second)
      throw Error(
          {.kind = kind, .what = "a key stands twice in one JSON object", .where = where, .seen = excerpt(parsed)});
    return true;
  };
  try {
    return json::parse(text, check);
  } catch (const json::exception& error) {
    throw Error({.kind = kind,
                 .what = "not valid JSON",
                 .where = where,
                 .seen = error.what(),
                 .next = "the file is damaged or of another kind: fetch or make it again"});
  }
}

std::string excerpt(const json& value) {
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);  // ASCII: safe to cut anywhere
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

JsonFields::JsonFields(const json& object, std::string where, ErrorKind kind)
    : object_(object), where_(std::move(where)), kind_(kind) {
  if (!object.is_object())
    throw Error({.kind = kind_,
                 .what = "expected a JSON object",
                 .where = where_,
                 .seen = excerpt(object),
                 .allowed = "{...}"});
}

bool JsonFields::has(const std::string& key) const {
  const auto found = object_.find(key);
  return found != object_.end() && !found->is_null();
}

const json& JsonFields::at(const std::string& key) const {
  const auto found = object_.find(key);
  if (found == object_.end()) refuse(key, "a field is missing", "");
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
               .seen = found == object_.end() ? "" : excerpt(*found),
               .allowed = std::move(allowed),
               .next = std::move(next)});
}

}  // namespace nibble
