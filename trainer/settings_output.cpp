#include "trainer/settings_output.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "quant/named_quantizers.hpp"
#include "quant/recipe.hpp"
#include "trainer/settings_table.hpp"

namespace nibble {
namespace {

/// "model.rope_scaling" of "model.rope_scaling.factor"; empty at the top.
std::string_view section_of(std::string_view key) {
  const size_t dot = key.rfind('.');
  return dot == std::string_view::npos ? std::string_view() : key.substr(0, dot);
}

std::string_view name_of(std::string_view key) { return key.substr(key.rfind('.') + 1); }

size_t depth_of(std::string_view key) { return static_cast<size_t>(std::ranges::count(key, '.')); }

/// Calls section(key) where a section begins and setting(row) for each row, in the order of the table.
template <class OnSection, class OnSetting>
void walk(OnSection on_section, OnSetting on_setting) {
  std::string open;
  for (const Setting& setting : settings_table()) {
    const std::string section(section_of(setting.key));
    // A section may begin with one of its own sections: all levels that are new, the outermost first.
    for (size_t end = 0; section != open && end != std::string::npos && !section.empty();) {
      end = section.find('.', end + 1);
      const std::string level = section.substr(0, end);
      if (open != level && !open.starts_with(level + ".")) on_section(level);
    }
    open = section;
    on_setting(setting);
  }
}

void append_with_comment(std::string& out, std::string line, std::string_view comment) {
  constexpr size_t comment_column = 44;
  line.resize(std::max(comment_column, line.size() + 2), ' ');
  out += fmt::format("{}# {}\n", line, comment);
}

/// The values that a reader may choose from, where the help does not say them.
std::string help_with_choices(const Setting& setting) {
  if (setting.choices.empty()) return setting.help;
  return fmt::format("{}; {}", setting.help, allowed_values(setting));
}

std::vector<std::string> recipe_row_names() {
  std::vector<std::string> names;
  for (const Recipe& recipe : recipes()) names.push_back(recipe.name);
  return names;
}

std::vector<std::string> quantizer_names() {
  std::vector<std::string> names;
  for (const NamedQuantizer& named : named_quantizers()) names.emplace_back(named.name);
  return names;
}

/// Names one after the other, in lines that a terminal shows whole.
std::string lines_of(const std::vector<std::string>& names) {
  constexpr size_t widest = 100;
  std::string text, line;
  for (const std::string& name : names) {
    if (line.size() + name.size() > widest) text += std::exchange(line, "") + ",\n";
    line += (line.empty() ? "  " : ", ") + name;
  }
  return text + line + "\n";
}

/// A pipe would end the cell of a Markdown table.
std::string markdown_cell(std::string text) {
  for (size_t at = 0; (at = text.find('|', at)) != std::string::npos; at += 2) text.insert(at, 1, '\\');
  return text;
}

}  // namespace

std::string settings_yaml(const Settings& settings, const ResolvedLines& resolved) {
  std::string out;
  walk(
      [&](const std::string& section) {
        append_with_comment(out, fmt::format("{:{}}{}:", "", 2 * depth_of(section), name_of(section)),
                            section_help(section));
      },
      [&](const Setting& setting) {
        append_with_comment(out,
                            fmt::format("{:{}}{}: {}", "", 2 * depth_of(setting.key), name_of(setting.key),
                                        format_value(setting, settings)),
                            help_with_choices(setting));
      });
  if (resolved.empty()) return out;
  out += "\n# resolved:\n";
  for (const auto& [name, value] : resolved) out += fmt::format("#   {}: {}\n", name, value);
  return out;
}

std::string settings_help() {
  const Settings defaults;
  std::string out =
      "Settings: in run.yaml or as --set KEY=VALUE, here with their defaults. Numbers may have k, M, B or T (0.75B),\n"
      "shares % (10%), durations s, min, h or d (30min).\n";
  walk([&](const std::string& section) { out += fmt::format("\n{}: {}\n", section, section_help(section)); },
       [&](const Setting& setting) {
         if (setting.key == "steps") out += "\nlength of the run\n";
         out += fmt::format("  {}: {}\n      {}; {}\n", setting.key, format_value(setting, defaults), setting.help,
                            allowed_values(setting, false));
       });
  out += fmt::format("\nrecipes\n{}families\n{}", lines_of(recipe_row_names()), lines_of(recipe_families()));
  out += fmt::format("quantizers that a recipe written out may name\n{}", lines_of(quantizer_names()));
  return out;
}

std::string settings_markdown() {
  const Settings defaults;
  std::string out =
      "# Settings\n\nWritten by `nibble settings --markdown`. Each stands in the YAML file of a run or in `--set "
      "KEY=VALUE`.\n*Fixed* settings are part of a run's identity: a resumed run cannot change them.\nNumbers may have "
      "k, M, B or T (`0.75B`), shares % (`10%`), durations s, min, h or d (`30min`).\n";
  const auto begin_table = [&](std::string_view title) {
    out += fmt::format("\n## {}\n\n| key | default | values | what it does | fixed |\n|---|---|---|---|---|\n", title);
  };
  walk([&](const std::string& section) { begin_table(fmt::format("{}: {}", section, section_help(section))); },
       [&](const Setting& setting) {
         if (setting.key == "steps") begin_table("length of the run");
         out += fmt::format("| `{}` | `{}` | {} | {} | {} |\n", setting.key, format_value(setting, defaults),
                            markdown_cell(allowed_values(setting, false)), markdown_cell(setting.help),
                            setting.identity ? "yes" : "");
       });
  out += fmt::format("\n## Recipes\n\n{}\nFamilies:\n\n{}\nQuantizers that a recipe written out may name:\n\n{}",
                     lines_of(recipe_row_names()), lines_of(recipe_families()), lines_of(quantizer_names()));
  return out;
}

std::vector<SettingDifference> setting_differences(const Settings& then, const Settings& now) {
  std::vector<SettingDifference> differences;
  for (const Setting& setting : settings_table()) {
    const std::string before = format_value(setting, then), after = format_value(setting, now);
    if (before != after) differences.push_back({setting.key, before, after, setting.identity});
  }
  return differences;
}

}  // namespace nibble
