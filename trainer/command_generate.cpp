#include "trainer/command_generate.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>

#include "quant/recipe.hpp"
#include "tensor/error.hpp"
#include "trainer/generation.hpp"
#include "trainer/run_directory.hpp"

namespace nibble {
namespace {

struct Arguments {
  std::string model, prompt, recipe = "bf16";
  SamplingOptions sampling;
  int threads = 0;
};

void run_generate(const Arguments& arguments) {
  const Recipe& recipe = find_recipe(arguments.recipe);
  const LoadedModel loaded = load_model(arguments.model, recipe.operands);
  for (const RefusedCheckpoint& refused : loaded.source.refused)
    fmt::print(stderr, "warning: {} is passed over: {}\n", refused.path.string(), refused.reason);
  if (!loaded.tokenizer)
    throw Error({.kind = ErrorKind::data,
                 .what = "the model comes with no tokenizer that Nibble reads",
                 .where = arguments.model,
                 .allowed = std::string("a ") + tokenizer_file_name + " of SentencePiece in the folder",
                 .next = "put the model's tokenizer there"});
  Stream stream(arguments.threads);
  Decoder decoder(stream, loaded.config, recipe, loaded.weights, loaded.config.context);
  const size_t prompt_tokens = loaded.tokenizer->encode(arguments.prompt).size() + 1;
  if (static_cast<int64_t>(prompt_tokens) >= decoder.capacity())
    throw Error({.kind = ErrorKind::configuration,
                 .what = "the prompt is longer than the model's context",
                 .where = "--prompt",
                 .seen = fmt::format("{} tokens", prompt_tokens),
                 .allowed = fmt::format("fewer than {}", decoder.capacity())});
  fmt::print("{}", arguments.prompt);
  generate(decoder, *loaded.tokenizer, arguments.prompt, loaded.tokens.ends, arguments.sampling, [](std::string_view text) {
    fmt::print("{}", text);
    std::fflush(stdout);
  });
  fmt::print("\n");
}

}  // namespace

void add_generate_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("generate", "Let a model write on after a prompt");
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("--model", arguments->model, "a run's directory, one of its checkpoints, or a Hugging Face folder")
      ->required()
      ->type_name("DIR|CHECKPOINT");
  command->add_option("--prompt", arguments->prompt, "text to go on from")->required();
  command->add_option("--tokens", arguments->sampling.tokens, "at most so many new tokens")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--temperature", arguments->sampling.temperature, "0: always the most likely token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command->add_option("--top-p", arguments->sampling.top_p, "draw from the most likely tokens that add up to this share")
      ->check(CLI::Range(1e-9, 1.0))
      ->capture_default_str();
  command->add_option("--seed", arguments->sampling.seed, "of the draws")->capture_default_str();
  command->add_option("--recipe", arguments->recipe, "precision of the GEMMs: fp32, bf16")->capture_default_str();
  command->add_option("--threads", arguments->threads, "0: all cores")->check(CLI::Range(0, 4096))->capture_default_str();
  command->callback([arguments] { run_generate(*arguments); });
}

}  // namespace nibble
