#include "trainer/command_tokenize.hpp"

#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "data/tokenize.hpp"
#include "tensor/files.hpp"
#include "trainer/progress.hpp"
#include "trainer/units.hpp"

namespace nibble {
namespace {

struct Arguments {
  TokenizeOptions options;
  std::string tokenizer;
  std::string validation;
  uint64_t split_bytes = 0;
  int64_t sentencepiece_vocabulary = 0;
  std::string tokenizer_output;
  bool json = false;
};

[[noreturn]] void refuse(std::string what, std::string where, std::string seen, std::string allowed) {
  throw Error({.kind = ErrorKind::configuration,
               .what = std::move(what),
               .where = std::move(where),
               .seen = std::move(seen),
               .allowed = std::move(allowed),
               .next = "see nibble tokenize --help"});
}

/// Whether two outputs would be one file; a folder that cannot be read is refused when it is written to.
bool same_file(const std::string& a, const std::string& b) {
  const auto canonical = [](const std::string& path) {
    std::error_code error;
    const std::filesystem::path result = std::filesystem::weakly_canonical(path, error);
    return error ? std::filesystem::path(path).lexically_normal() : result;
  };
  return canonical(a) == canonical(b);
}

void resolve(Arguments& arguments) {
  TokenizeOptions& options = arguments.options;
  options.documents.split_bytes = static_cast<int64_t>(arguments.split_bytes);
  if (!arguments.validation.empty()) {
    try {
      options.validation = parse_share(arguments.validation);
    } catch (const ValueError& error) {
      refuse(error.what, "--validation", arguments.validation, "a share such as 1% or 0.01");
    }
    if (!(options.validation > 0 && options.validation < 1))
      refuse("the share of validation documents is out of range", "--validation", arguments.validation,
             "above 0% and below 100%");
  }
  if ((options.validation > 0) != !options.validation_output.empty())
    refuse("--validation and --validation-output go together", "command line",
           options.validation > 0 ? "--validation without --validation-output"
                                  : "--validation-output without --validation",
           "both or neither");
  if (options.validation > 0 && same_file(options.validation_output, options.output))
    refuse("both outputs are the same file", "--validation-output", options.validation_output, "another file");
  const bool trains = arguments.sentencepiece_vocabulary != 0;
  if (trains && !arguments.tokenizer.empty())
    refuse("a tokenizer is either given or trained", "command line", "--tokenizer and --train-sentencepiece",
           "one of them");
  if (trains != !arguments.tokenizer_output.empty())
    refuse("--train-sentencepiece and --tokenizer-output go together", "command line",
           trains ? "--train-sentencepiece without --tokenizer-output"
                  : "--tokenizer-output without --train-sentencepiece",
           "both or neither");
}

std::unique_ptr<Tokenizer> obtain_tokenizer(const Arguments& arguments) {
  if (arguments.sentencepiece_vocabulary == 0)
    return make_tokenizer(arguments.tokenizer.empty() ? "byte" : arguments.tokenizer);
  TokenizeOptions options = arguments.options;
  std::string model;
  {
    WorkProgress progress("reading for the tokenizer", "MB", 1e6);
    options.progress = [&progress](int64_t read, int64_t total) { progress.update(read, total); };
    model = train_sentencepiece(options, arguments.sentencepiece_vocabulary);
  }
  write_file_atomically(arguments.tokenizer_output, model);
  return make_sentencepiece_tokenizer(model, std::filesystem::path(arguments.tokenizer_output).stem().string());
}

nlohmann::json shard_json(const ShardSummary& shard) {
  return {
      {"path", shard.path}, {"documents", shard.documents}, {"tokens", shard.tokens}, {"text_bytes", shard.text_bytes}};
}

void print_json(const TokenizeSummary& summary) {
  nlohmann::json json = {{"tokenizer", summary.tokenizer.identity},
                         {"tokenizer_hash", hex(summary.tokenizer.hash)},
                         {"vocabulary", summary.tokenizer.vocabulary},
                         {"train", shard_json(summary.train)},
                         {"files", summary.counts.files},
                         {"hidden", summary.counts.hidden},
                         {"binary", summary.counts.binary},
                         {"other_extension", summary.counts.other_extension},
                         {"empty", summary.counts.empty},
                         {"has_prompts", summary.has_prompts}};
  if (summary.validation) json["validation"] = shard_json(*summary.validation);
  if (const auto& counts = summary.deduplication)
    json["deduplication"] = {{"documents_before", counts->documents_before},
                             {"documents_after", counts->documents_after},
                             {"bytes_before", counts->bytes_before},
                             {"bytes_after", counts->bytes_after},
                             {"near_duplicates", counts->near_duplicates},
                             {"lines_dropped", counts->lines_dropped},
                             {"emptied", counts->emptied}};
  // A file name need not be UTF-8; a character that is not becomes U+FFFD.
  fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

void print_shard(const char* role, const ShardSummary& shard) {
  fmt::print("{:<11} {}: {} documents, {} tokens, {} bytes of text, {:.2f} bytes per token\n", role, shard.path,
             shard.documents, shard.tokens, shard.text_bytes,
             static_cast<double>(shard.text_bytes) / static_cast<double>(shard.tokens));
}

void print_text(const TokenizeSummary& summary) {
  fmt::print("{:<11} {}, {} ids\n", "tokenizer", summary.tokenizer.identity, summary.tokenizer.vocabulary);
  const DocumentCounts& counts = summary.counts;
  fmt::print("{:<11} {} files", "read", counts.files);
  const auto skipped = [](int64_t count, const char* what) {
    if (count > 0) fmt::print(", {} {} skipped", count, what);
  };
  skipped(counts.hidden, "hidden");
  skipped(counts.binary, "binary");
  skipped(counts.other_extension, "with other extensions");
  skipped(counts.empty, "empty documents");
  fmt::print("\n");
  if (const auto& dropped = summary.deduplication)
    fmt::print(
        "{:<11} {} near-duplicate documents and {} repeated lines dropped, {} documents emptied: {} -> {} "
        "documents, {} -> {} bytes\n",
        "duplicates", dropped->near_duplicates, dropped->lines_dropped, dropped->emptied, dropped->documents_before,
        dropped->documents_after, dropped->bytes_before, dropped->bytes_after);
  print_shard("training", summary.train);
  if (summary.validation) print_shard("validation", *summary.validation);
  fmt::print("next: nibble train run.yaml --set data.train={}", summary.train.path);
  if (summary.validation) fmt::print(" --set data.validation={}", summary.validation->path);
  fmt::print("\n");
}

void run(Arguments& arguments) {
  resolve(arguments);
  for (const std::string& output :
       {arguments.options.output, arguments.options.validation_output, arguments.tokenizer_output})
    if (!output.empty()) create_folder_of(output);
  const std::unique_ptr<Tokenizer> tokenizer = obtain_tokenizer(arguments);
  TokenizeSummary summary;
  {
    WorkProgress progress("tokenizing", "MB", 1e6);
    arguments.options.progress = [&progress](int64_t read, int64_t total) { progress.update(read, total); };
    summary = tokenize(arguments.options, *tokenizer);
  }
  if (arguments.json) print_json(summary);
  else print_text(summary);
}

}  // namespace

void add_tokenize_command(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  TokenizeOptions& options = arguments->options;
  CLI::App* command = app.add_subcommand("tokenize", "Turn text into token shards");
  command->add_option("inputs", options.inputs, "Text files, folders, JSON lines; each also .gz, .xz or .zst")
      ->required();
  command->add_option("--output", options.output, "Token shard to write (HDF5)")->required();
  command->add_option(
      "--tokenizer", arguments->tokenizer,
      "byte (the default), a SentencePiece model, a tokenizer.json, or a folder that holds one of these");
  command->add_option("--train-sentencepiece", arguments->sentencepiece_vocabulary,
                      "Train a SentencePiece model with this vocabulary on the training documents, and use it");
  command->add_option("--tokenizer-output", arguments->tokenizer_output, "Where to write the trained model");
  command->add_option("--validation", arguments->validation,
                      "Share of the documents for validation (1%), chosen by a hash of their content");
  command->add_option("--validation-output", options.validation_output, "Token shard for these");
  command->add_flag("--deduplicate", options.deduplicate,
                    "Drop near-duplicate documents, and lines of 20 bytes or more that stood in an earlier document");
  command->add_option("--text-key", options.documents.text_key, "Key of the text in JSON lines")->capture_default_str();
  command->add_option("--extensions", options.documents.extensions, "Only these files of folders: txt,md,cpp")
      ->delimiter(',');
  command
      ->add_option("--split-documents", arguments->split_bytes,
                   "Cut text files into documents of at least this size (16KiB), at the next blank line")
      ->transform(CLI::AsSizeValue(false));
  command->add_flag("--append-eos", options.append_eos,
                    "End every document with EOS; prompt/completion pairs always end so");
  command->add_option("--threads", options.threads, "Threads that encode; 0: all cores")->check(CLI::NonNegativeNumber);
  command->add_flag("--json", arguments->json, "Print the summary as JSON");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace nibble
