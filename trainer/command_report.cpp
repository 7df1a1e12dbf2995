#include "trainer/command_report.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tensor/files.hpp"
#include "trainer/report.hpp"

namespace nibble {
namespace {

struct Arguments {
  std::vector<std::filesystem::path> runs;
  std::filesystem::path output;
};

void run_report(const Arguments& arguments) {
  const std::vector<std::filesystem::path> runs = find_runs(arguments.runs);
  const std::filesystem::path output =
      arguments.output.empty() ? arguments.runs.front() / "report.html" : arguments.output;
  create_folder_of(output);
  write_report(runs, output);
  fmt::print("{}\n", output.string());
  for (const std::filesystem::path& run : runs) fmt::print("  {}\n", run.string());
}

}  // namespace

void add_report_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("report", "One HTML page on runs: curves, time, memory, differences");
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("run", arguments->runs, "runs' directories, or folders of such directories")
      ->required()
      ->type_name("RUN");
  command->add_option("--output", arguments->output, "the page; default: report.html in the first folder that is named")
      ->type_name("FILE.html");
  command->callback([arguments] { run_report(*arguments); });
}

}  // namespace nibble
