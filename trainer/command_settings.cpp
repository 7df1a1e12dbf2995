#include "trainer/command_settings.hpp"

#include <fmt/format.h>

#include <memory>

#include "trainer/settings_output.hpp"

namespace nibble {

void add_settings_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("settings", "List every setting of a run: type, default, range and meaning");
  const auto markdown = std::make_shared<bool>(false);
  command->add_flag("--markdown", *markdown, "As the reference page, in Markdown");
  command->callback([markdown] { fmt::print("{}", *markdown ? settings_markdown() : settings_help()); });
}

}  // namespace nibble
