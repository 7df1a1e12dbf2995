#include "trainer/command_coordinates.hpp"

#include <fmt/format.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tensor/files.hpp"
#include "trainer/coordinates.hpp"
#include "trainer/progress.hpp"
#include "trainer/yaml_settings.hpp"

namespace nibble {
namespace {

struct Arguments {
  std::string file, plot;
  std::vector<std::string> overrides;
  std::vector<int64_t> widths = {64, 128, 256, 512};
  int64_t steps = 8;
  bool json = false;
};

nlohmann::ordered_json coordinates_json(const CoordinateCheck& check) {
  nlohmann::ordered_json changes, exponents;
  for (const Coordinate& coordinate : check.coordinates) {
    changes[coordinate.name] = coordinate.changes;
    exponents[coordinate.name] = check.exponent(coordinate);
  }
  return {{"widths", check.widths},
          {"changes_by_width_and_step", changes},
          {"exponents", exponents},
          {"independent_of_width", check.independent_of_width()}};
}

void run_coordinates(const Arguments& arguments) {
  const Settings settings = load_settings(arguments.file, arguments.overrides);
  WorkProgress progress("trained", "steps");
  int64_t done = 0;
  const CoordinateCheck check = check_coordinates(settings, arguments.widths, arguments.steps, [&] {
    progress.update(++done, std::ssize(arguments.widths) * arguments.steps);
  });
  const std::string title =
      fmt::format("Coordinates after {} steps of {}, {}", arguments.steps, settings.optimizer.name,
                  settings.model.mup_base_width > 0 ? fmt::format("muP from width {}", settings.model.mup_base_width)
                                                    : "without muP");
  if (!arguments.plot.empty()) write_file_atomically(arguments.plot, coordinates_page(check, title));
  if (arguments.json) fmt::print("{}\n", coordinates_json(check).dump());
  else fmt::print("{}\n\n{}", title, coordinates_text(check));
}

}  // namespace

void add_coordinates_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "coordinates", "Whether steps change what a model computes alike at every width: the coordinate check of muP");
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("file", arguments->file, "settings of a run")->required()->type_name("FILE.yaml");
  command->add_option("--set", arguments->overrides, "a setting, over what the file says; may be given again")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->take_all();
  command->add_option("--widths", arguments->widths, "at which it trains; all other sides grow alike")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--steps", arguments->steps, "at each width")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  command->add_option("--plot", arguments->plot, "also write a page with a figure")->type_name("FILE.html");
  command->add_flag("--json", arguments->json, "one JSON object on standard output");
  command->callback([arguments] { run_coordinates(*arguments); });
}

}  // namespace nibble
