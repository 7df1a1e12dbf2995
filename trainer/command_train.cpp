#include "trainer/command_train.hpp"

#include <errno.h>
#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "comm/world.hpp"
#include "tensor/error.hpp"
#include "trainer/command_generate.hpp"
#include "trainer/run_parts.hpp"
#include "trainer/settings_output.hpp"
#include "trainer/training_run.hpp"
#include "trainer/yaml_settings.hpp"

namespace nibble {
namespace {

struct Arguments {
  std::string file;
  std::vector<std::string> overrides;
  bool resume = false, retune = false, print_config = false;
};

/// As a shell reads it back.
std::string in_quotes(const std::string& word) {
  if (word.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=:,%+@") ==
      std::string::npos)
    return word;
  std::string result = "'";
  for (const char character : word) result += character == '\'' ? std::string("'\\''") : std::string(1, character);
  return result + "'";
}

/// The command that goes on with an interrupted run.
std::string resume_command(const Arguments& arguments, int ranks) {
  std::string command = ranks > 1 ? fmt::format("launch/mpirun -np {} ", ranks) : "";
  command += in_quotes(program_invocation_name) + " train " + in_quotes(arguments.file);
  for (const std::string& assignment : arguments.overrides) command += " --set " + in_quotes(assignment);
  return command + " --resume";
}

/// Text that the trained model writes after run.sample.
void print_sample(const Settings& settings) {
  const Precision precision = precision_for(find_model(settings.run.directory), "");
  const LoadedModel model = load_model(settings.run.directory, precision.operands(), precision.learns());
  if (!model.tokenizer) {
    fmt::print(stderr, "no sample: the token files carry no tokenizer\n");
    return;
  }
  print_generated(model, precision, static_cast<int>(settings.run.threads), settings.run.sample,
                  {.tokens = settings.run.sample_tokens,
                   .temperature = settings.run.temperature,
                   .seed = static_cast<uint64_t>(settings.run.seed)});
}

void run_train(const Arguments& arguments) {
  TrainingRun::Outcome outcome = TrainingRun::Outcome::finished;
  run_in_world([&](World& world) {
    const Settings settings = load_settings(arguments.file, arguments.overrides);
    if (arguments.print_config) {
      if (world.is_first()) fmt::print("{}", settings_yaml(settings));
      return;
    }
    {
      TrainingRun run(settings, {.world = &world, .resume = arguments.resume, .retune = arguments.retune});
      outcome = run.run();
      if (world.is_first() && outcome != TrainingRun::Outcome::finished)
        fmt::print(stderr, "interrupted after step {} of {}, saved in {}\nto go on: {}\n", run.step(),
                   run.total_steps(), run.directory(), resume_command(arguments, world.size()));
    }
    if (world.is_first() && outcome == TrainingRun::Outcome::finished && !settings.run.sample.empty())
      print_sample(settings);
  });
  if (outcome == TrainingRun::Outcome::interrupted) throw CLI::RuntimeError(exit_interrupted);
  if (outcome == TrainingRun::Outcome::requeue) throw CLI::RuntimeError(exit_requeue);
}

}  // namespace

void add_train_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("train", "Train a model as a YAML file says");
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("file", arguments->file, "settings of the run")->required()->type_name("FILE.yaml");
  command->add_option("--set", arguments->overrides, "a setting, over what the file says; may be given again")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->take_all();
  command->add_flag("--resume", arguments->resume, "go on from the run's newest checkpoint that is whole");
  command->add_flag("--retune", arguments->retune,
                    "resume although threads, instruction set or libraries differ from the checkpoint's");
  command->add_flag("--print-config", arguments->print_config,
                    "print the complete configuration, with defaults, and stop");
  command->footer(settings_help);
  command->callback([arguments] { run_train(*arguments); });
}

}  // namespace nibble
