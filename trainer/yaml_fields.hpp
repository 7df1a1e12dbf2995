// Structs in YAML, from one table of fields each: reading, messages and printing follow from it.
//
//   template <> inline constexpr auto fields<Rotation> =
//       std::tuple{Field{"size", &Rotation::size}, Field{"signs", &Rotation::signs}};
//
// An enumeration has a table of its words instead (words<Signs>). A struct may be said by a name that
// named<T>(name, names) knows, alone or under `like` beside what differs. Printing leaves out what a new T has already.
// Not for: single settings (settings_table.hpp), JSON.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include <charconv>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "tensor/error.hpp"
#include "trainer/nearest.hpp"

namespace nibble {

/// Where a node stands, for messages: "run.yaml:3:14".
using PlaceOf = std::function<std::string(const YAML::Node&)>;

template <class Struct, class Member>
struct Field {
  const char* name;
  Member Struct::*member;
  const char* minus_one = nullptr;  ///< the word for the number -1, if it has one
};

/// A std::tuple of Field, in the order of printing.
template <class Struct>
inline constexpr std::nullptr_t fields = nullptr;
/// An array of pairs (word, value).
template <class Enumeration>
inline constexpr std::nullptr_t words = nullptr;

template <class T>
concept HasFields = !std::is_same_v<decltype(fields<T>), const std::nullptr_t>;
template <class T>
concept HasWords = !std::is_same_v<decltype(words<T>), const std::nullptr_t>;

/// The value of a name, where T has named ones; else nothing, and `names` is what there is.
template <class T>
std::optional<T> named(const std::string& /*name*/, std::vector<std::string>& /*names*/) {
  return std::nullopt;
}

[[noreturn]] inline void refuse_field(const YAML::Node& node, const PlaceOf& place, const std::string& what,
                                      const std::string& allowed, const std::string& near = {}) {
  throw Error({.kind = ErrorKind::configuration,
               .what = what,
               .where = place(node),
               .seen = node.IsScalar()     ? node.Scalar()
                       : node.IsMap()      ? "a map"
                       : node.IsSequence() ? "a list"
                                           : "nothing",
               .allowed = allowed,
               .next = near.empty() ? "" : fmt::format("did you mean '{}'?", near)});
}
[[noreturn]] inline void refuse_word(const YAML::Node& node, const PlaceOf& place, const std::string& what,
                                     const std::vector<std::string>& allowed) {
  refuse_field(node, place, what, fmt::format("{}", fmt::join(allowed, ", ")), nearest(node.Scalar(), allowed));
}
inline const std::string& scalar(const YAML::Node& node, const PlaceOf& place, const char* allowed) {
  if (!node.IsScalar()) refuse_field(node, place, "no single value", allowed);
  return node.Scalar();
}

// Single values.

inline void read_yaml(const YAML::Node& node, const PlaceOf& place, std::string& value) {
  value = scalar(node, place, "a text");
}
inline void read_yaml(const YAML::Node& node, const PlaceOf& place, bool& value) {
  const std::string& text = scalar(node, place, "true or false");
  if (text != "true" && text != "false") refuse_field(node, place, "not a boolean", "true or false");
  value = text == "true";
}
template <class Number>
requires std::is_arithmetic_v<Number>
void read_yaml(const YAML::Node& node, const PlaceOf& place, Number& value) {
  constexpr const char* allowed = std::is_integral_v<Number> ? "a whole number" : "a number";
  const std::string& text = scalar(node, place, allowed);
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc() || end != text.data() + text.size() || value - value != 0)
    refuse_field(node, place, "not a number that fits here", allowed);
}
template <class Value>
void read_yaml(const YAML::Node& node, const PlaceOf& place, std::optional<Value>& value) {
  read_yaml(node, place, value.emplace());
}
/// One text, or a list of them.
inline void read_yaml(const YAML::Node& node, const PlaceOf& place, std::vector<std::string>& values) {
  values.clear();
  if (node.IsScalar()) return values.push_back(node.Scalar());
  if (!node.IsSequence()) refuse_field(node, place, "neither a text nor a list of them", "a list: [a, b]");
  for (const YAML::Node& entry : node) values.push_back(scalar(entry, place, "a text"));
}
template <HasWords Enumeration>
void read_yaml(const YAML::Node& node, const PlaceOf& place, Enumeration& value) {
  std::vector<std::string> allowed;
  for (const auto& [word, meaning] : words<Enumeration>) {
    if (node.IsScalar() && node.Scalar() == word) {
      value = meaning;
      return;
    }
    allowed.emplace_back(word);
  }
  scalar(node, place, "one word");
  refuse_word(node, place, "unknown word", allowed);
}

inline std::string print_yaml(const std::string& value) {
  YAML::Emitter out;
  out << YAML::DoubleQuoted << value;
  return out.c_str();
}
inline std::string print_yaml(bool value) { return value ? "true" : "false"; }
template <class Number>
requires std::is_arithmetic_v<Number> std::string print_yaml(Number value) {
  return fmt::format("{}", value);  // the shortest text that is read as the same number
}
/// Of one that is there: others are left out.
template <class Value>
std::string print_yaml(const std::optional<Value>& value) {
  return print_yaml(*value);
}
inline std::string print_yaml(const std::vector<std::string>& values) {
  std::vector<std::string> texts;
  for (const std::string& value : values) texts.push_back(print_yaml(value));
  return fmt::format("[{}]", fmt::join(texts, ", "));
}
template <HasWords Enumeration>
std::string print_yaml(Enumeration value) {
  for (const auto& [word, meaning] : words<Enumeration>)
    if (meaning == value) return std::string(word);
  throw Error({.kind = ErrorKind::internal, .what = "a value without a word"});
}

// Structs.

template <HasFields Struct>
void read_yaml(const YAML::Node& node, const PlaceOf& place, Struct& value);
template <HasFields Struct>
std::string print_yaml(const Struct& value);

template <class Struct>
Struct read_named(const YAML::Node& node, const PlaceOf& place) {
  std::vector<std::string> names;
  if (std::optional<Struct> found = named<Struct>(node.Scalar(), names)) return *found;
  if (names.empty()) refuse_field(node, place, "parts belong here, not one value", "a map: {part: value, ...}");
  refuse_word(node, place, "unknown name", names);
}

/// Reads the field of that name. Returns whether there is one.
template <class Struct>
bool read_field(const std::string& name, const YAML::Node& node, const PlaceOf& place, Struct& value) {
  const auto read_if = [&](const auto& field) {
    if (name != field.name) return false;
    auto& member = value.*field.member;
    if constexpr (std::is_same_v<decltype(value.*field.member), int64_t&>)
      if (field.minus_one && node.IsScalar() && node.Scalar() == field.minus_one) {
        member = -1;
        return true;
      }
    read_yaml(node, place, member);
    return true;
  };
  return std::apply([&](const auto&... each) { return (read_if(each) || ...); }, fields<Struct>);
}

template <HasFields Struct>
void read_yaml(const YAML::Node& node, const PlaceOf& place, Struct& value) {
  if (node.IsScalar()) {
    value = read_named<Struct>(node, place);
    return;
  }
  if (!node.IsMap()) refuse_field(node, place, "no parts with names", "a map: {part: value, ...}");
  std::vector<std::string> known;
  std::apply([&](const auto&... each) { (known.emplace_back(each.name), ...); }, fields<Struct>);
  value = {};
  if (const YAML::Node like = node["like"]) {
    scalar(like, place, "a name");
    value = read_named<Struct>(like, place);
  }
  std::vector<std::string> seen;
  for (const auto& entry : node) {
    const std::string& name = scalar(entry.first, place, "the name of a part");
    if (std::ranges::find(seen, name) != seen.end()) refuse_field(entry.first, place, "a part twice", "each once");
    seen.push_back(name);
    if (name != "like" && !read_field(name, entry.second, place, value))
      refuse_word(entry.first, place, "unknown part", known);
  }
}

template <HasFields Struct>
std::string print_yaml(const Struct& value) {
  const Struct usual{};
  std::vector<std::string> parts;
  const auto print = [&](const auto& field) {
    const auto& member = value.*field.member;
    if (member == usual.*field.member) return;
    std::string text;
    if constexpr (std::is_same_v<decltype(member), const int64_t&>)
      text = field.minus_one && member == -1 ? field.minus_one : print_yaml(member);
    else text = print_yaml(member);
    parts.push_back(fmt::format("{}: {}", field.name, text));
  };
  std::apply([&](const auto&... each) { (print(each), ...); }, fields<Struct>);
  return fmt::format("{{{}}}", fmt::join(parts, ", "));
}

}  // namespace nibble
