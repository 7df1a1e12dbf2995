#include "trainer/yaml_settings.hpp"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <sstream>
#include <system_error>

#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "trainer/resolve.hpp"
#include "trainer/settings_node.hpp"
#include "trainer/settings_table.hpp"
#include "trainer/structured_settings.hpp"
#include "trainer/units.hpp"

namespace nibble {
namespace {

[[noreturn]] void refuse(const std::string& what, const std::string& where, const std::string& seen,
                         const std::string& allowed, const std::string& next) {
  throw Error(
      {.kind = ErrorKind::configuration, .what = what, .where = where, .seen = seen, .allowed = allowed, .next = next});
}

[[noreturn]] void refuse_value(const Setting& setting, const std::string& what, const std::string& where,
                               const std::string& seen) {
  refuse(fmt::format("bad value of {}: {}", setting.key, what), where, seen, allowed_values(setting),
         fmt::format("{}: {}", setting.key, setting.help));
}

std::vector<std::string> entries_of(const Setting& setting, const YAML::Node& list, const PlaceOf& place) {
  std::vector<std::string> texts;
  for (const YAML::Node& entry : list) {
    if (!entry.IsScalar()) refuse_value(setting, "an entry that is no text", place(entry), "a list, map or nothing");
    texts.push_back(entry.Scalar());
  }
  return texts;
}

void give(const Setting& setting, Settings& settings, const YAML::Node& value, const PlaceOf& place) {
  if (is_structured(setting)) return assign_node(setting, settings, value, place);
  if (value.IsMap()) refuse_value(setting, "settings below a setting that has none", place(value), "a map");
  try {
    if (value.IsSequence()) assign_list(setting, settings, entries_of(setting, value, place));
    else if (setting.type == SettingType::list) throw ValueError{"one value where a list belongs"};
    else assign(setting, settings, value.Scalar());
  } catch (const ValueError& error) {
    refuse_value(setting, error.what, place(value), value.IsScalar() ? value.Scalar() : "a list");
  }
}

/// Walks a YAML document and fills settings, remembering where each came from.
class Reader {
 public:
  Reader(std::string name, Settings& settings, SettingOrigins& origins)
      : name_(std::move(name)), settings_(settings), origins_(origins) {}

  /// `prefix` is empty at the top, else "model.".
  void read_map(const YAML::Node& map, const std::string& prefix) {
    for (const auto& entry : map) {
      if (!entry.first.IsScalar())
        refuse("a key that is no text", where(entry.first), "a list or a map", "the name of a setting", "");
      const std::string key = prefix + entry.first.Scalar();
      if (const Setting* setting = find_setting(key)) read_value(*setting, entry.first, entry.second);
      else if (is_section(key)) read_section(key, entry.second);
      else refuse_unknown_setting(key, where(entry.first));
    }
  }

 private:
  std::string where(const YAML::Node& node) const {
    return fmt::format("{}:{}:{}", name_, node.Mark().line + 1, node.Mark().column + 1);
  }

  void read_section(const std::string& key, const YAML::Node& value) {
    if (value.IsNull()) return;  // "run:" with all its lines commented out
    if (!value.IsMap())
      refuse(fmt::format("'{}' is a section, not a setting", key), where(value),
             value.IsScalar() ? value.Scalar() : "a list", fmt::format("settings below it: {}: {{...}}", key),
             fmt::format("{}: {}", key, section_help(key)));
    read_map(value, key + ".");
  }

  void read_value(const Setting& setting, const YAML::Node& key, const YAML::Node& value) {
    const auto [origin, first] = origins_.emplace(setting.key, where(key));
    if (!first)
      refuse(fmt::format("'{}' is given twice", setting.key), where(key), "first in " + origin->second, "one value",
             "remove one of them");
    if (value.IsNull()) refuse_value(setting, "no value", where(key), "nothing");
    give(setting, settings_, value, [this](const YAML::Node& node) { return where(node); });
  }

  std::string name_;
  Settings& settings_;
  SettingOrigins& origins_;
};

// The complete configuration with all its comments has 9 KB and eight levels at most. What is far beyond was not
// written as one, and yaml-cpp would take memory and stack for it before the first unknown key is seen.
constexpr size_t most_bytes = size_t{1} << 18;
constexpr int most_levels = 16;

[[noreturn]] void refuse_size(const std::string& name, uint64_t bytes) {
  refuse("too large for a configuration", name, fmt::format("{} bytes", bytes),
         fmt::format("at most {} bytes", most_bytes),
         "check the path: token files and texts are named in it, not held");
}

/// Listens to a document, keeps nothing, and refuses it where it is nested too deeply.
class Levels final : public YAML::EventHandler {
 public:
  explicit Levels(const std::string& name) : name_(name) {}
  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark& at, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
    descend(at);
  }
  void OnSequenceEnd() override { --level_; }
  void OnMapStart(const YAML::Mark& at, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
    descend(at);
  }
  void OnMapEnd() override { --level_; }

 private:
  void descend(const YAML::Mark& at) {
    if (++level_ > most_levels)
      refuse("lists or sections nested too deeply", fmt::format("{}:{}:{}", name_, at.line + 1, at.column + 1),
             fmt::format("more than {} levels", most_levels), fmt::format("at most {}; settings need 8", most_levels),
             "check the brackets and the indentation");
  }

  const std::string& name_;
  int level_ = 0;
};

/// Whether text follows the first document. YAML::LoadAll would tell too, but never ends on some broken files, of which
/// it makes one empty document after the other.
bool several_documents(const std::string& yaml, const std::string& name) {
  std::istringstream input(yaml);
  YAML::Parser parser(input);
  Levels levels(name);
  return parser.HandleNextDocument(levels) && parser.HandleNextDocument(levels);
}

void apply_override(const std::string& text, Settings& settings, SettingOrigins& origins) {
  const std::string where = "--set " + text;
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0)
    refuse("--set without key=value", where, text, "--set key=value", "for example --set optimizer.learning_rate=1e-3");
  const std::string key = text.substr(0, equals), value = text.substr(equals + 1);
  const Setting* setting = find_setting(key);
  if (!setting && is_section(key))
    refuse(fmt::format("'{}' is a section, not a setting", key), where, value, fmt::format("{}.NAME=value", key),
           "`nibble settings` lists its settings");
  if (!setting) refuse_unknown_setting(key, where);
  try {
    if (is_structured(*setting))
      assign_node(*setting, settings, YAML::Load(value), [&](const YAML::Node&) { return where; });
    else assign(*setting, settings, value);
  } catch (const YAML::Exception& error) {
    refuse_value(*setting, "not valid YAML: " + error.msg, where, value);
  } catch (const ValueError& error) {
    refuse_value(*setting, error.what, where, value);
  }
  origins[key] = where;
}

Settings checked_settings(const YAML::Node& document, const std::string& name,
                          const std::vector<std::string>& overrides) {
  GivenSettings given = read_settings(document, name);
  for (const std::string& text : overrides) apply_override(text, given.settings, given.origins);
  validate(given.settings, given.origins);
  return given.settings;
}

}  // namespace

void refuse_unknown_setting(const std::string& key, const std::string& where) {
  const std::string near = nearest_key(key);
  refuse(fmt::format("unknown setting '{}'", key), where, key, "the settings that `nibble settings` lists",
         near.empty() ? "correct or remove it" : fmt::format("did you mean '{}'?", near));
}

YAML::Node load_yaml(std::string_view yaml, const std::string& name) {
  if (yaml.size() > most_bytes) refuse_size(name, yaml.size());
  // The end marker makes an open quote an error; without it yaml-cpp takes the rest of the file as its text.
  const std::string text = std::string(yaml) + "\n...\n";
  YAML::Node document;
  bool several = false;
  try {
    several = several_documents(text, name);
    document = YAML::Load(text);
  } catch (const YAML::Exception& error) {
    refuse("not valid YAML: " + error.msg, fmt::format("{}:{}:{}", name, error.mark.line + 1, error.mark.column + 1),
           "", "key: value, sections indented by spaces or in {}",
           "close every quote and bracket; quote texts that hold any of : # * & { } [ ]");
  }
  if (several)
    refuse("several YAML documents in one file, or text behind a value", name, "", "one",
           "remove the lines ---, and whatever stands before or behind the settings");
  if (!document.IsNull() && !document.IsMap())
    refuse("not a configuration", name + ":1:1", document.IsScalar() ? "text" : "a list",
           "sections and settings: model: {preset: llama-30m}", "see configs/ for examples");
  return document;
}

YAML::Node load_yaml_file(const std::string& file) {
  std::error_code error;  // read_file has the message for what cannot be read
  const uint64_t bytes = std::filesystem::is_regular_file(file, error) ? std::filesystem::file_size(file, error) : 0;
  if (!error && bytes > most_bytes) refuse_size(file, bytes);
  return load_yaml(read_file(file, ErrorKind::configuration), file);
}

GivenSettings read_settings(const YAML::Node& map, const std::string& name) {
  GivenSettings given;
  if (!map.IsNull()) Reader(name, given.settings, given.origins).read_map(map, "");
  return given;
}

void give_setting(GivenSettings& given, const Setting& setting, const YAML::Node& value, const std::string& where) {
  if (value.IsNull()) refuse_value(setting, "no value", where, "nothing");
  give(setting, given.settings, value, [&](const YAML::Node&) { return where; });
  given.origins[setting.key] = where;
}

Settings parse_settings(std::string_view yaml, const std::string& name, const std::vector<std::string>& overrides) {
  return checked_settings(load_yaml(yaml, name), name, overrides);
}

Settings load_settings(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  return checked_settings(load_yaml_file(file.string()), file.string(), overrides);
}

}  // namespace nibble
