// The program: finds the command, runs it, and turns whatever it throws into a message and an exit code.
//
// Only here does the process end. Not for what commands do (trainer/command_*.cpp).
#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "tensor/caught_error.hpp"
#include "trainer/command.hpp"
#include "trainer/command_bench.hpp"
#include "trainer/command_capacity.hpp"
#include "trainer/command_coordinates.hpp"
#include "trainer/command_diagnose.hpp"
#include "trainer/command_doctor.hpp"
#include "trainer/command_eval.hpp"
#include "trainer/command_export.hpp"
#include "trainer/command_fit.hpp"
#include "trainer/command_formats.hpp"
#include "trainer/command_generate.hpp"
#include "trainer/command_plan.hpp"
#include "trainer/command_report.hpp"
#include "trainer/command_settings.hpp"
#include "trainer/command_sweep.hpp"
#include "trainer/command_tokenize.hpp"
#include "trainer/command_train.hpp"
#include "trainer/nearest.hpp"
#include "trainer/version.hpp"

namespace nibble {
namespace {

constexpr AddCommand commands[] = {
    add_train_command,       add_tokenize_command, add_eval_command,     add_generate_command,
    add_export_command,      add_report_command,   add_settings_command, add_bench_command,
    add_doctor_command,      add_plan_command,     add_formats_command,  add_diagnose_command,
    add_coordinates_command, add_fit_command,      add_capacity_command, add_sweep_command};

/// What the user may have meant by an argument that nothing took.
std::string suggestion(const CLI::App& app) {
  const CLI::App* command = &app;
  for (const CLI::App* chosen : app.get_subcommands()) command = chosen;
  std::vector<std::string> words;
  for (const CLI::Option* option : command->get_options())
    for (const std::string& name : option->get_lnames()) words.push_back("--" + name);
  if (command == &app)
    for (const CLI::App* known : app.get_subcommands({})) words.push_back(known->get_name());
  for (const std::string& argument : app.remaining(true)) {
    const std::string found = nearest(argument.substr(0, argument.find('=')), words);
    if (!found.empty()) return found;
  }
  return "";
}

int report(const Error& error) {
  fmt::print(stderr, "{}\n", error.what());
  return error.exit_code();
}

int report_arguments(const CLI::App& app, const CLI::ParseError& error) {
  std::string left;
  for (const std::string& argument : app.remaining(true)) left += (left.empty() ? "" : " ") + argument;
  const std::string near = suggestion(app);
  const std::vector<CLI::App*> chosen = app.get_subcommands();
  const std::string help = chosen.empty() ? "nibble --help" : fmt::format("nibble {} --help", chosen[0]->get_name());
  return report(Error({.kind = ErrorKind::configuration,
                       .what = chosen.empty() && !left.empty() ? "unknown command or option" : error.what(),
                       .where = "command line",
                       .seen = left,
                       .next = near.empty() ? "see " + help : fmt::format("did you mean '{}'? See {}", near, help)}));
}

int run(int argc, char** argv) {
  CLI::App app("Nibble trains Llama models.", "nibble");
  app.require_subcommand(1);
  app.set_version_flag("--version", versions_text);
  for (const AddCommand add : commands) add(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::RuntimeError& ended) {
    return ended.get_exit_code();
  } catch (const CLI::Success& answered) {
    return app.exit(answered);  // --help, --version
  } catch (const CLI::ParseError& error) {
    return report_arguments(app, error);
  }
  return 0;
}

/// Threads of libgomp that wait for the others spin for 300000 pauses (10 ms and more) before they sleep: on a machine
/// that does something else too they take the core from the thread that they wait for. 3000 pauses cost nothing on an
/// idle machine and are 1.5 times as fast on a busy one (bench/results). libgomp reads its environment before main
/// begins, so the program runs itself once more with it; should that fail, it goes on as it is.
void limit_spinning(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") || std::getenv("OMP_WAIT_POLICY")) return;
  setenv("GOMP_SPINCOUNT", "3000", 1);
  execv("/proc/self/exe", argv);
}

}  // namespace
}  // namespace nibble

int main(int argc, char** argv) {
  nibble::limit_spinning(argv);
  std::signal(SIGXFSZ, SIG_IGN);  // a file above `ulimit -f` is then an error with a message, as on a full disk
  try {
    return nibble::run(argc, argv);
  } catch (...) {
    return nibble::report(nibble::caught_error());
  }
}
