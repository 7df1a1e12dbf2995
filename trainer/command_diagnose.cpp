#include "trainer/command_diagnose.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "tensor/files.hpp"
#include "trainer/diagnosis_output.hpp"
#include "trainer/diagnosis_page.hpp"
#include "trainer/memory.hpp"
#include "trainer/progress.hpp"
#include "trainer/run_parts.hpp"

namespace nibble {
namespace {

struct Arguments {
  std::string model, data, plot;
  std::vector<std::string> recipes;
  int64_t draws = 64, sequences = 4, sequence = 0, seed = 1;
  int threads = 0;
  bool json = false;
};

std::vector<Recipe> recipes_of(const Arguments& arguments) {
  std::vector<Recipe> recipes;
  for (const std::string& name : arguments.recipes) recipes.push_back(find_recipe(name));
  return recipes;
}

void run_diagnose(const Arguments& arguments) {
  const std::vector<Recipe> recipes = recipes_of(arguments);
  const TokenData data = TokenData::open(arguments.data);
  const ModelSource source = find_model(arguments.model);
  warn_of_refused(source);
  const LoadedModel loaded = load_model(source.path, DType::f32, std::ranges::any_of(recipes, &Recipe::learns));
  data.require_vocabulary(loaded.config.vocabulary);
  require_tokenizer(loaded, data.tokenizer(), data.path());

  Stream stream(arguments.threads);
  const Loader loader(data, window_options(loaded, arguments.sequence, static_cast<uint64_t>(arguments.seed)));
  const Batch batch = loader.batch(0, arguments.sequences);
  require_held_memory();
  const std::string measured =
      fmt::format("{}, step {}; {} windows of {} tokens of {}, seed {}; {} draws", loaded.source.path.string(),
                  loaded.step, batch.sequences, batch.length, arguments.data, arguments.seed, arguments.draws);
  WorkProgress progress("diagnosing", "passes");
  int64_t done = 0;
  const int64_t passes = diagnosis_passes(std::ssize(recipes), arguments.draws);
  const GradientDiagnosis diagnosis =
      diagnose_gradients(stream, loaded.config, loaded.weights, batch, recipes,
                         {.draws = arguments.draws, .seed = static_cast<uint64_t>(arguments.seed), .pass_done = [&] {
                            progress.update(++done, passes);
                          }});

  if (!arguments.plot.empty())
    write_file_atomically(arguments.plot, diagnosis_page(diagnosis, "Gradient quality", measured));
  if (arguments.json) {
    nlohmann::ordered_json answer = {{"model", loaded.source.path.string()},
                                     {"step", loaded.step},
                                     {"data", arguments.data},
                                     {"sequences", batch.sequences},
                                     {"sequence", batch.length},
                                     {"seed", arguments.seed},
                                     {"draws", arguments.draws}};
    answer.update(diagnosis_json(diagnosis));
    fmt::print("{}\n", answer.dump());
    return;
  }
  fmt::print("{}\n{}", measured, diagnosis_text(diagnosis));
}

}  // namespace

void add_diagnose_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "diagnose", "How good the gradients of recipes are on one fixed batch: error, direction by depth, bias");
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("model", arguments->model, "a run's directory, one of its checkpoints, or a Hugging Face folder")
      ->required()
      ->type_name("DIR|CHECKPOINT");
  command->add_option("--recipe", arguments->recipes, "what to diagnose; may be given again")
      ->required()
      ->type_name("NAME")
      ->expected(1)
      ->take_all();
  command->add_option("--data", arguments->data, "token file")->required()->type_name("FILE");
  command->add_option("--draws", arguments->draws, "gradients of each recipe with other random numbers")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  command->add_option("--sequences", arguments->sequences, "windows in the batch")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 16))
      ->capture_default_str();
  command
      ->add_option("--sequence", arguments->sequence,
                   "tokens in a window; 0: as in its run, else its context, at most 512")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24))
      ->capture_default_str();
  command->add_option("--seed", arguments->seed, "of the choice of windows and of the recipes' random numbers")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--threads", arguments->threads, "0: all cores")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command->add_option("--plot", arguments->plot, "also write a page with figures")->type_name("FILE.html");
  command->add_flag("--json", arguments->json, "one JSON object on standard output");
  command->callback([arguments] { run_diagnose(*arguments); });
}

}  // namespace nibble
