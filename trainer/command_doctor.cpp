#include "trainer/command_doctor.hpp"

#include <fmt/format.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/world.hpp"
#include "trainer/doctor_output.hpp"
#include "trainer/yaml_settings.hpp"

namespace nibble {
namespace {

struct Arguments {
  std::string file;
  std::vector<std::string> overrides;
  bool json = false;
};

void run_doctor(const Arguments& arguments) {
  int code = 0;
  run_in_world([&](World& world) {
    std::optional<Settings> settings;
    if (!arguments.file.empty()) settings = load_settings(arguments.file, arguments.overrides);
    const Diagnosis diagnosis = diagnose(world, settings ? &*settings : nullptr);
    if (world.is_first())
      fmt::print("{}", arguments.json ? diagnosis_json(diagnosis).dump(2) + "\n" : diagnosis_text(diagnosis));
    code = exit_code(diagnosis);
  });
  if (code != 0) throw CLI::RuntimeError(code);
}

}  // namespace

void add_doctor_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("doctor", "Check ranks, hosts, links and products before a run");
  const auto arguments = std::make_shared<Arguments>();
  CLI::Option* file =
      command->add_option("file", arguments->file, "settings of a run, to be compared with its data on all ranks")
          ->type_name("FILE.yaml");
  command->add_option("--set", arguments->overrides, "a setting, over what the file says; may be given again")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->take_all()
      ->needs(file);
  command->add_flag("--json", arguments->json, "one JSON object on standard output");
  command->callback([arguments] { run_doctor(*arguments); });
}

}  // namespace nibble
