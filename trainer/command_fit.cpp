#include "trainer/command_fit.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tensor/files.hpp"
#include "trainer/fit_output.hpp"
#include "trainer/fit_page.hpp"
#include "trainer/law_fit.hpp"
#include "trainer/progress.hpp"
#include "trainer/units.hpp"

namespace nibble {
namespace {

struct Arguments {
  std::vector<std::filesystem::path> runs;
  LawFitOptions options;
  std::vector<std::string> fixed;
  std::optional<double> irreducible;
  std::string hold_out_above, plot;
  bool json = false;
};

double number(const std::string& text, const std::string& where) {
  try {
    return parse_real(text);
  } catch (const ValueError& error) {
    throw Error({.kind = ErrorKind::configuration, .what = error.what, .where = where, .seen = text});
  }
}

LawFitOptions options_of(const Arguments& arguments) {
  LawFitOptions options = arguments.options;
  for (const std::string& text : arguments.fixed) {
    const size_t sign = text.find('=');
    if (sign == std::string::npos)
      throw Error({.kind = ErrorKind::configuration,
                   .what = "no constant with its value",
                   .where = "--fix",
                   .seen = text,
                   .allowed = "NAME=VALUE, such as alpha=0.34"});
    options.fixed[text.substr(0, sign)] = number(text.substr(sign + 1), "--fix " + text.substr(0, sign));
  }
  if (arguments.irreducible) options.fixed[find_law(options.law).constants[law_e].name] = *arguments.irreducible;
  if (!arguments.hold_out_above.empty()) options.hold_out_above = number(arguments.hold_out_above, "--hold-out-above");
  return options;
}

void run_fit(const Arguments& arguments) {
  const LawFitOptions options = options_of(arguments);
  find_law(options.law);
  Stream stream;
  WorkProgress progress("fitting", "searches");
  const LawFit fit = fit_law(stream, read_fit_points(arguments.runs), options,
                             [&](int64_t done, int64_t of) { progress.update(done, of); });
  if (!arguments.plot.empty()) {
    create_folder_of(arguments.plot);
    write_file_atomically(arguments.plot, fit_page(fit));
  }
  fmt::print("{}", arguments.json ? fit_json(fit).dump(2) + "\n" : fit_text(fit));
}

}  // namespace

void add_fit_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("fit", "A scaling law fitted to runs: constants and recipes' efficiencies");
  const auto arguments = std::make_shared<Arguments>();
  std::vector<std::string> laws;
  for (const ScalingLaw& law : scaling_laws()) laws.emplace_back(law.name);
  LawFitOptions& options = arguments->options;
  command
      ->add_option("run", arguments->runs,
                   "runs' directories, folders of such directories, or tables (.csv, .jsonl) with the columns "
                   "parameters, tokens, loss, and where known forward, backward, run")
      ->required()
      ->type_name("RUNS");
  command->add_option("--law", options.law, fmt::format("{}", fmt::join(laws, ", ")))->required()->type_name("LAW");
  command->add_option("--irreducible", arguments->irreducible,
                      "E, where the entropy of the data is known; runs on one synthetic language know theirs");
  command->add_option("--fix", arguments->fixed, "a constant of the law that is known")->type_name("NAME=VALUE");
  command
      ->add_option("--huber", options.huber,
                   "residuals of ln L beyond this count by their size, not its square; default: as the law's authors")
      ->check(CLI::PositiveNumber);
  command->add_option("--starts", options.starts, "random starts of each minimisation")
      ->check(CLI::Range(100, 1000000))
      ->capture_default_str();
  command->add_option("--bootstrap", options.bootstrap, "resamples of the runs behind the intervals (0: none)")
      ->check(CLI::Range(0, 1000000))
      ->capture_default_str();
  command->add_option("--hold-out-above", arguments->hold_out_above,
                      "larger runs are predicted, not fitted: 100M parameters, for instance");
  command->add_option("--plot", arguments->plot, "a page with figures")->type_name("FILE.html");
  command->add_flag("--json", arguments->json, "one JSON object on standard output");
  command->callback([arguments] { run_fit(*arguments); });
}

}  // namespace nibble
