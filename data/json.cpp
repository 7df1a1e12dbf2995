#include "data/json.hpp"

#include <fmt/format.h>

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
                     .seen = fmt::format("more than {} levels", deepest),
                     .allowed = fmt::format("at most {}", deepest),
                     .next = damaged_or_foreign});
    }
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second)
      throw Error({.kind = kind,
                   .what = "a key stands twice in one JSON object",
                   .where = where,
                   .seen = excerpt(parsed),
                   .allowed = "each key once",
                   .next = damaged_or_foreign});
    return true;
  };
  try {
    return json::parse(text, check);
  } catch (const json::exception& error) {
    throw Error({.kind = kind,
                 .what = "not valid JSON",
                 .where = where,
                 .seen = error.what(),
                 .allowed = "one JSON value in UTF-8",
                 .next = damaged_or_foreign});
  }
}

std::string excerpt(const json& value) {
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);  // ASCII: safe to cut anywhere
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

}  // namespace nibble
