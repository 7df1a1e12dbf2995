#include "trainer/command_generate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "quant/precision.hpp"
#include "tensor/error.hpp"
#include "trainer/memory.hpp"
#include "trainer/run_parts.hpp"

namespace nibble {
namespace {

struct Arguments {
  std::string model, prompt, recipe;
  SamplingOptions sampling;
  int threads = 0;
};

void run_generate(const Arguments& arguments) {
  const ModelSource source = find_model(arguments.model);
  warn_of_refused(source);
  const Precision precision = precision_for(source, arguments.recipe);
  print_generated(load_model(source.path, precision.operands(), precision.learns()), precision, arguments.threads,
                  arguments.prompt, arguments.sampling);
}

}  // namespace

void print_generated(const LoadedModel& loaded, const Precision& precision, int threads, const std::string& prompt,
                     const SamplingOptions& sampling) {
  if (!loaded.tokenizer)
    throw Error({.kind = ErrorKind::data,
                 .what = "the model comes with no tokenizer that Nibble reads",
                 .where = loaded.source.path.string(),
                 .seen = loaded.tokenizer_problem,
                 .allowed = fmt::format("a SentencePiece {}, or a {} with a byte-level BPE, in the folder",
                                        sentencepiece_file_name, tokenizer_json_file_name),
                 .next = "put the model's tokenizer there"});
  const auto prompt_tokens = static_cast<int64_t>(loaded.tokenizer->encode(prompt).size()) + 1;  // and BOS
  if (prompt_tokens >= loaded.config.context)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "the prompt leaves no room in the model's context",
                 .where = "prompt",
                 .seen = fmt::format("{} tokens", prompt_tokens),
                 .allowed = fmt::format("fewer than {}", loaded.config.context),
                 .next = "shorten the prompt"});
  Stream stream(threads);
  const int64_t capacity = std::min(loaded.config.context, prompt_tokens + sampling.tokens);
  Decoder decoder(stream, loaded.config, precision, loaded.weights, capacity);
  require_held_memory();
  fmt::print("{}", prompt);
  generate(decoder, *loaded.tokenizer, prompt, loaded.tokens.ends, sampling, [](std::string_view text) {
    fmt::print("{}", text);
    std::fflush(stdout);
  });
  fmt::print("\n");
}

void add_generate_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("generate", "Let a model write on after a prompt");
  const auto arguments = std::make_shared<Arguments>();
  command
      ->add_option("--model", arguments->model, "a run's directory, one of its checkpoints, or a Hugging Face folder")
      ->required()
      ->type_name("DIR|CHECKPOINT");
  command->add_option("--prompt", arguments->prompt, "text to go on from")->required();
  command->add_option("--tokens", arguments->sampling.tokens, "at most so many new tokens")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--temperature", arguments->sampling.temperature, "0: always the most likely token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command
      ->add_option("--top-p", arguments->sampling.top_p, "draw from the most likely tokens that add up to this share")
      ->check(CLI::Range(1e-9, 1.0))
      ->capture_default_str();
  command->add_option("--seed", arguments->sampling.seed, "of the draws")->capture_default_str();
  command->add_option(
      "--recipe", arguments->recipe,
      "arithmetic of the linear layers: any name that precision.recipe takes; default: as in its run, bf16");
  command->add_option("--threads", arguments->threads, "0: all cores")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command->callback([arguments] { run_generate(*arguments); });
}

}  // namespace nibble
