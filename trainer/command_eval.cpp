#include "trainer/command_eval.hpp"
#include "comm/local_world.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "quant/precision.hpp"
#include "trainer/evaluation.hpp"
#include "trainer/memory.hpp"
#include "trainer/progress.hpp"
#include "trainer/run_parts.hpp"

namespace nibble {
namespace {

struct Arguments {
  std::string model, data, recipe, packing;
  int64_t sequence = 0, micro = 4, tokens = 0;
  int threads = 0;
  bool mask_documents = false, json = false;
};

/// A Hugging Face model may be meant for far longer sequences than fit into one forward pass of several windows.
constexpr int64_t longest_default_sequence = 4096;

/// What the command line leaves open is as in the model's own run, so that its validation loss comes out again.
LoaderOptions window_options(const Arguments& arguments, const LoadedModel& model) {
  const std::optional<Settings> settings = settings_of(model.source);
  LoaderOptions options = settings ? loader_options(*settings) : LoaderOptions{};
  if (!settings) options.sequence = std::min(model.config.context, longest_default_sequence);
  if (arguments.sequence > 0) options.sequence = arguments.sequence;
  if (!arguments.packing.empty())
    options.packing = arguments.packing == "documents" ? Packing::documents : Packing::stream;
  if (arguments.mask_documents) options.mask_documents = true;
  return options;
}

void run_eval(const Arguments& arguments) {
  const TokenData data = TokenData::open(arguments.data);
  const ModelSource source = find_model(arguments.model);
  warn_of_refused(source);
  const Precision precision = precision_for(source, arguments.recipe);
  const LoadedModel loaded = load_model(source.path, precision.operands(), precision.learns());
  data.require_vocabulary(loaded.config.vocabulary);
  require_tokenizer(loaded, data);

  Stream stream(arguments.threads);
  const Loader loader(data, window_options(arguments, loaded));
  const int64_t sequence = loader.sequence();
  Llama model(stream, loaded.config, precision, {.sequences = arguments.micro, .length = sequence, .training = false});
  require_held_memory();
  WorkProgress progress("evaluated", "windows");
  const Evaluation result = evaluate(model, loaded.weights, loader, arguments.tokens, *make_local_world(),
                                     [&](int64_t done, int64_t of) { progress.update(done, of); });

  const std::optional<double> bits = result.bits_per_byte();
  if (arguments.json) {
    nlohmann::ordered_json answer = {{"model", loaded.source.path.string()},
                                     {"step", loaded.step},
                                     {"data", arguments.data},
                                     {"sequence", sequence},
                                     {"recipe", precision.recipe().name},
                                     {"tokens", result.tokens},
                                     {"loss", result.loss()},
                                     {"perplexity", result.perplexity()}};
    answer["bits_per_byte"] = bits ? nlohmann::ordered_json(*bits) : nlohmann::ordered_json(nullptr);
    fmt::print("{}\n", answer.dump());
    return;
  }
  fmt::print("model          {}\ndata           {}, {} tokens in windows of {}\n", loaded.source.path.string(),
             arguments.data, result.tokens, sequence);
  fmt::print("loss           {:.6f} nats per token\nperplexity     {:.4f}\n", result.loss(), result.perplexity());
  if (bits) fmt::print("bits per byte  {:.6f}\n", *bits);
  else fmt::print("bits per byte  unknown: the file does not tell the bytes of its text\n");
}

}  // namespace

void add_eval_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("eval", "Loss, perplexity and bits per byte of a model on a file of tokens");
  const auto arguments = std::make_shared<Arguments>();
  command
      ->add_option("--model", arguments->model, "a run's directory, one of its checkpoints, or a Hugging Face folder")
      ->required()
      ->type_name("DIR|CHECKPOINT");
  command->add_option("--data", arguments->data, "token file")->required()->type_name("FILE");
  command
      ->add_option("--sequence", arguments->sequence,
                   "tokens in a window; 0: as in its run, else its context, at most 4096")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24))
      ->capture_default_str();
  command->add_option("--micro", arguments->micro, "windows in one forward pass")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 16))
      ->capture_default_str();
  command->add_option("--tokens", arguments->tokens, "stop after so many tokens; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      ->add_option("--packing", arguments->packing,
                   "how documents fill windows: stream, documents; default: as in its run")
      ->check(CLI::IsMember({"stream", "documents"}));
  command->add_option(
      "--recipe", arguments->recipe,
      "arithmetic of the linear layers: any name that precision.recipe takes; default: as in its run, bf16");
  command->add_option("--threads", arguments->threads, "0: all cores")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command->add_flag("--mask-documents", arguments->mask_documents, "attention stays within documents");
  command->add_flag("--json", arguments->json, "one JSON object on standard output");
  command->callback([arguments] { run_eval(*arguments); });
}

}  // namespace nibble
