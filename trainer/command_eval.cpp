#include "trainer/command_eval.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "quant/recipe.hpp"
#include "tensor/error.hpp"
#include "trainer/evaluation.hpp"
#include "trainer/run_directory.hpp"

namespace nibble {
namespace {

struct Arguments {
  std::string model, data, recipe = "bf16";
  int64_t sequence = 0, micro = 4, tokens = 0;
  int threads = 0;
  bool mask_documents = false, json = false;
};

void run_eval(const Arguments& arguments) {
  const TokenData data = TokenData::open(arguments.data);
  const Recipe& recipe = find_recipe(arguments.recipe);
  const LoadedModel loaded = load_model(arguments.model, recipe.operands);
  for (const RefusedCheckpoint& refused : loaded.source.refused)
    fmt::print(stderr, "warning: {} is passed over: {}\n", refused.path.string(), refused.reason);
  data.require_vocabulary(loaded.config.vocabulary);
  if (loaded.tokenizer && loaded.tokenizer->info().hash != data.tokenizer().hash)
    throw Error({.kind = ErrorKind::data,
                 .what = "the tokens were not made with the model's tokenizer",
                 .where = arguments.data,
                 .seen = data.tokenizer().identity,
                 .allowed = loaded.tokenizer->info().identity,
                 .next = "run nibble tokenize with the model's tokenizer"});

  Stream stream(arguments.threads);
  const int64_t sequence = arguments.sequence > 0 ? arguments.sequence : loaded.config.context;
  const Loader loader(data, {.sequence = sequence, .mask_documents = arguments.mask_documents});
  Llama model(stream, loaded.config, recipe, {.sequences = arguments.micro, .length = sequence, .training = false});
  const Evaluation result = evaluate(model, loaded.weights, loader, arguments.tokens, [](int64_t done, int64_t of) {
    fmt::print(stderr, "\r{} of {} windows", done, of);
  });
  fmt::print(stderr, "\n");

  const std::optional<double> bits = result.bits_per_byte();
  if (arguments.json) {
    nlohmann::ordered_json answer = {{"model", loaded.source.path.string()}, {"step", loaded.step},
                                     {"data", arguments.data},               {"sequence", sequence},
                                     {"tokens", result.tokens},              {"loss", result.loss()},
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
  command->add_option("--model", arguments->model, "a run's directory, one of its checkpoints, or a Hugging Face folder")
      ->required()
      ->type_name("DIR|CHECKPOINT");
  command->add_option("--data", arguments->data, "token file")->required()->type_name("FILE");
  command->add_option("--sequence", arguments->sequence, "tokens in a window; 0: the model's context")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24))
      ->capture_default_str();
  command->add_option("--micro", arguments->micro, "windows in one forward pass")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 16))
      ->capture_default_str();
  command->add_option("--tokens", arguments->tokens, "stop after so many tokens; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--recipe", arguments->recipe, "precision of the GEMMs: fp32, bf16")->capture_default_str();
  command->add_option("--threads", arguments->threads, "0: all cores")->check(CLI::Range(0, 4096))->capture_default_str();
  command->add_flag("--mask-documents", arguments->mask_documents, "attention stays within documents");
  command->add_flag("--json", arguments->json, "one JSON object on standard output");
  command->callback([arguments] { run_eval(*arguments); });
}

}  // namespace nibble
