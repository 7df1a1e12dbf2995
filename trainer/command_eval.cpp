#include "trainer/command_eval.hpp"
#include "comm/local_world.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/byte_source.hpp"
#include "data/choice_tasks.hpp"
#include "quant/precision.hpp"
#include "trainer/evaluation.hpp"
#include "trainer/memory.hpp"
#include "trainer/progress.hpp"
#include "trainer/run_parts.hpp"
#include "trainer/task_evaluation.hpp"

namespace nibble {
namespace {

struct Arguments {
  std::string model, data, recipe, packing;
  std::vector<std::string> tasks;
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

using Answer = nlohmann::ordered_json;

/// What the model's loss is of: a file, or the synthetic language that it was trained on.
struct EvaluationData {
  std::unique_ptr<TokenData> file;  // its windows refer to it
  std::unique_ptr<WindowSource> windows;
  std::optional<double> entropy{};  ///< of the language, nats per token
};

EvaluationData file_data(const Arguments& arguments, std::unique_ptr<TokenData> file, const LoadedModel& model) {
  file->require_vocabulary(model.config.vocabulary);
  require_tokenizer(model, file->tokenizer(), file->path());
  auto windows = std::make_unique<Loader>(*file, window_options(arguments, model));
  return {.file = std::move(file), .windows = std::move(windows)};
}

EvaluationData language_data(const Arguments& arguments, const Settings& settings) {
  if (arguments.packing == "documents" || arguments.mask_documents)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "a synthetic language has no documents",
                 .where = "command line",
                 .seen = "--packing documents or --mask-documents without --data",
                 .allowed = "neither of them, or a token file",
                 .next = "add --data FILE"});
  auto windows = std::make_unique<SyntheticWindows>(
      synthetic_windows(settings, arguments.sequence > 0 ? arguments.sequence : settings.data.sequence));
  const double entropy = windows->language().entropy();
  return {.file = nullptr, .windows = std::move(windows), .entropy = entropy};
}

/// The loss, as text too where no JSON was asked for.
void evaluate_data(const Arguments& arguments, const EvaluationData& data, const LoadedModel& loaded,
                   const Precision& precision, Stream& stream, Answer& answer) {
  const int64_t sequence = data.windows->sequence();
  Llama model(stream, loaded.config, precision, {.sequences = arguments.micro, .length = sequence, .training = false});
  require_held_memory();
  Evaluation result;
  {
    WorkProgress progress("evaluated", "windows");
    result = evaluate(model, loaded.weights, *data.windows, arguments.tokens, *make_local_world(),
                      [&](int64_t done, int64_t of) { progress.update(done, of); });
  }
  const std::optional<double> bits = result.bits_per_byte(), gap = result.gap();
  answer["data"] = data.windows->name();
  answer["sequence"] = sequence;
  answer["tokens"] = result.tokens;
  answer["loss"] = result.loss();
  answer["perplexity"] = result.perplexity();
  answer["bits_per_byte"] = bits ? Answer(*bits) : Answer(nullptr);
  if (gap) answer.update({{"gap", *gap}, {"entropy", data.entropy.value()}});
  if (arguments.json) return;
  fmt::print("data           {}, {} tokens in windows of {}\n", data.windows->name(), result.tokens, sequence);
  fmt::print("loss           {:.6f} nats per token\nperplexity     {:.4f}\n", result.loss(), result.perplexity());
  if (gap)
    fmt::print(
        "gap            {:.6f} nats per token above the language's own loss on these tokens\n"
        "entropy        {:.6f} nats per token of the language; the loss is {:.6f} above it\n",
        *gap, data.entropy.value(), result.loss() - data.entropy.value());
  else if (bits) fmt::print("bits per byte  {:.6f}\n", *bits);
  else fmt::print("bits per byte  unknown: the file does not tell the bytes of its text\n");
}

void evaluate_tasks(const Arguments& arguments, const LoadedModel& loaded, const Precision& precision, Stream& stream,
                    Answer& answer) {
  answer["tasks"] = Answer::array();
  for (const std::string& path : arguments.tasks) {
    const ChoiceTask task = read_choice_task(path, loaded.tokenizer.get(), loaded.config.vocabulary);
    TaskScores scores;
    {
      WorkProgress progress("answered", "choices");
      scores = score_task(
          stream, loaded.config, precision, loaded.weights, task,
          {.sequences = arguments.micro, .progress = [&](int64_t done, int64_t of) { progress.update(done, of); }});
    }
    answer["tasks"].push_back({{"file", path},
                               {"questions", scores.by_sum.questions},
                               {"acc", scores.by_sum.value()},
                               {"acc_stderr", scores.by_sum.error()},
                               {"acc_norm", scores.by_normalized.value()},
                               {"acc_norm_stderr", scores.by_normalized.error()},
                               {"normalized_by", task.normalized_by},
                               {"shortened", scores.shortened}});
    if (arguments.json) continue;
    fmt::print(
        "task           {}, {} questions\nacc            {:.4f} +- {:.4f}\nacc_norm       {:.4f} +- {:.4f}, by {}\n",
        path, scores.by_sum.questions, scores.by_sum.value(), scores.by_sum.error(), scores.by_normalized.value(),
        scores.by_normalized.error(), task.normalized_by);
    if (scores.shortened > 0)
      fmt::print("               {} choices lost the beginning of their context: the model has {} tokens\n",
                 scores.shortened, loaded.config.context);
  }
}

void run_eval(const Arguments& arguments) {
  // Files that are not there are told before a large model is read.
  std::unique_ptr<TokenData> file;
  if (!arguments.data.empty()) file = std::make_unique<TokenData>(TokenData::open(arguments.data));
  for (const std::string& path : arguments.tasks) size_of_file(path);
  const ModelSource source = find_model(arguments.model);
  warn_of_refused(source);
  const std::optional<Settings> settings = settings_of(source);
  const bool of_language = !file && arguments.tasks.empty() && settings && settings->data.is_synthetic();
  if (!file && arguments.tasks.empty() && !of_language)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "there is nothing to evaluate the model on",
                 .where = "command line",
                 .seen = "neither --data nor --tasks",
                 .allowed = "one of them, or both; neither for a model that was trained on a synthetic language",
                 .next = "see nibble eval --help"});
  const Precision precision = precision_for(source, arguments.recipe);
  const LoadedModel loaded = load_model(source.path, precision.operands(), precision.learns());
  Answer answer = {{"model", loaded.source.path.string()}, {"step", loaded.step}, {"recipe", precision.recipe().name}};
  if (!arguments.json) fmt::print("model          {}\n", loaded.source.path.string());
  Stream stream(arguments.threads);
  if (file) evaluate_data(arguments, file_data(arguments, std::move(file), loaded), loaded, precision, stream, answer);
  if (of_language) evaluate_data(arguments, language_data(arguments, *settings), loaded, precision, stream, answer);
  if (!arguments.tasks.empty()) evaluate_tasks(arguments, loaded, precision, stream, answer);
  if (arguments.json) fmt::print("{}\n", answer.dump());
}

}  // namespace

void add_eval_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "eval",
      "Loss, perplexity and bits per byte of a model on a file of tokens, or its gap to the synthetic language that it "
      "was trained on; its answers to multiple choice");
  const auto arguments = std::make_shared<Arguments>();
  command
      ->add_option("--model", arguments->model, "a run's directory, one of its checkpoints, or a Hugging Face folder")
      ->required()
      ->type_name("DIR|CHECKPOINT");
  command->add_option("--data", arguments->data, "token file: its loss; none: the synthetic language of its run")
      ->type_name("FILE");
  command
      ->add_option("--tasks", arguments->tasks,
                   "multiple choice: llm.c's evaluation files, or JSON lines with context (query, ctx), choices "
                   "(endings) and answer (label, gold: a number from 0, or a letter)")
      ->type_name("FILE ...");
  command
      ->add_option("--sequence", arguments->sequence,
                   "tokens in a window; 0: as in its run, else its context, at most 4096")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24))
      ->capture_default_str();
  command->add_option("--micro", arguments->micro, "windows in one forward pass")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 16))
      ->capture_default_str();
  command->add_option("--tokens", arguments->tokens, "stop after so many tokens; 0: all, of a synthetic language 65536")
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
