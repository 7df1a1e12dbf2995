#include "trainer/yaml_settings.hpp"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <sstream>

#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "trainer/resolve.hpp"
#include "trainer/settings_table.hpp"
#include "trainer/units.hpp"

namespace nibble {
namespace {

[[noreturn]] void refuse(const std::string& what, const std::string& where, const std::string& seen,
                         const std::string& allowed, const std::string& next) {
  throw Error(
      {.kind = ErrorKind::configuration, .what = what, .where = where, .seen = seen, .allowed = allowed, .next = next});
}

[[noreturn]] void refuse_unknown(const std::string& key, const std::string& where) {
  const std::string near = nearest_key(key);
  refuse(fmt::format("unknown setting '{}'", key), where, key, "the settings that `nibble settings` lists",
         near.empty() ? "correct or remove it" : fmt::format("did you mean '{}'?", near));
}

[[noreturn]] void refuse_value(const Setting& setting, const std::string& what, const std::string& where,
                               const std::string& seen) {
  refuse(fmt::format("bad value of {}: {}", setting.key, what), where, seen, allowed_values(setting),
         fmt::format("{}: {}", setting.key, setting.help));
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
      else refuse_unknown(key, where(entry.first));
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
    if (value.IsMap()) refuse_value(setting, "settings below a setting that has none", where(value), "a map");
    try {
      if (value.IsSequence()) assign_list(setting, settings_, entries(setting, value));
      else if (setting.type == SettingType::list) throw ValueError{"one value where a list belongs"};
      else assign(setting, settings_, value.Scalar());
    } catch (const ValueError& error) {
      refuse_value(setting, error.what, where(value), value.IsScalar() ? value.Scalar() : "a list");
    }
  }

  std::vector<std::string> entries(const Setting& setting, const YAML::Node& list) const {
    std::vector<std::string> texts;
    for (const YAML::Node& entry : list) {
      if (!entry.IsScalar()) refuse_value(setting, "an entry that is no text", where(entry), "a list, map or nothing");
      texts.push_back(entry.Scalar());
    }
    return texts;
  }

  std::string name_;
  Settings& settings_;
  SettingOrigins& origins_;
};

/// Listens to a document and keeps nothing.
class Ignore final : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}
};

/// Whether text follows the first document. YAML::LoadAll would tell too, but never ends on some broken files, of which
/// it makes one empty document after the other.
bool several_documents(const std::string& yaml) {
  std::istringstream input(yaml);
  YAML::Parser parser(input);
  Ignore ignore;
  return parser.HandleNextDocument(ignore) && parser.HandleNextDocument(ignore);
}

void read_yaml(std::string_view yaml, const std::string& name, Settings& settings, SettingOrigins& origins) {
  // The end marker makes an open quote an error; without it yaml-cpp takes the rest of the file as its text.
  const std::string text = std::string(yaml) + "\n...\n";
  YAML::Node document;
  bool several = false;
  try {
    document = YAML::Load(text);
    several = several_documents(text);
  } catch (const YAML::Exception& error) {
    refuse("not valid YAML: " + error.msg, fmt::format("{}:{}:{}", name, error.mark.line + 1, error.mark.column + 1),
           "", "key: value, sections indented by spaces or in {}",
           "close every quote and bracket; quote texts that hold any of : # * & { } [ ]");
  }
  if (several)
    refuse("several YAML documents in one file, or text behind a value", name, "", "one",
           "remove the lines ---, and whatever stands before or behind the settings");
  if (document.IsNull()) return;
  if (!document.IsMap())
    refuse("not a configuration", name + ":1:1", document.IsScalar() ? "text" : "a list",
           "sections and settings: model: {preset: llama-30m}", "see configs/ for examples");
  Reader(name, settings, origins).read_map(document, "");
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
  if (!setting) refuse_unknown(key, where);
  try {
    assign(*setting, settings, value);
  } catch (const ValueError& error) {
    refuse_value(*setting, error.what, where, value);
  }
  origins[key] = where;
}

}  // namespace

Settings parse_settings(std::string_view yaml, const std::string& name, const std::vector<std::string>& overrides) {
  Settings settings;
  SettingOrigins origins;
  read_yaml(yaml, name, settings, origins);
  for (const std::string& text : overrides) apply_override(text, settings, origins);
  validate(settings, origins);
  return settings;
}

Settings load_settings(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  return parse_settings(read_file(file, ErrorKind::configuration), file.string(), overrides);
}

}  // namespace nibble
