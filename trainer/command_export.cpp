#include "trainer/command_export.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <iterator>
#include <memory>
#include <string>
#include <utility>

#include "trainer/gguf_model.hpp"
#include "trainer/gguf_tokenizer.hpp"
#include "trainer/huggingface.hpp"
#include "trainer/huggingface_weights.hpp"
#include "trainer/progress.hpp"
#include "trainer/run_parts.hpp"

namespace nibble {
namespace {

struct Arguments {
  std::string model, output, format = "safetensors", dtype = "bf16";
  uint64_t shard_bytes = FolderOptions{}.shard_bytes;
  bool overwrite = false;
};

/// The element types of `--dtype`, and what config.json calls them.
struct ElementType {
  const char *option, *row_type, *torch;
};
constexpr std::array element_types = {ElementType{"f32", "F32", "float32"}, ElementType{"f16", "F16", "float16"},
                                      ElementType{"bf16", "BF16", "bfloat16"}};

void print_tokenizer(const ModelDescription& model, const char* kept_as) {
  if (model.tokenizer) fmt::print("  tokenizer {}\n", kept_as);
  else fmt::print("  tokenizer none stored; {}\n", model.tokenizer_problem);
}

void print_summary(const Arguments& arguments, const ModelDescription& model, int64_t bytes, int64_t files,
                   const LogitDifference& difference) {
  fmt::print("{}\n  from      {}\n  weights   {} parameters as {}, {:.1f} MB in {} file{}\n", arguments.output,
             model.source.path.string(), model.config.parameters(), arguments.dtype, static_cast<double>(bytes) / 1e6,
             files, files == 1 ? "" : "s");
  fmt::print("  read back logits differ by at most {:.3g}, rms {:.3g}; KL divergence {:.3g} nats ({} tokens, fp32)\n",
             difference.largest, difference.rms, difference.divergence,
             std::min(compared_tokens, model.config.context));
}

/// Compares what was written with what it was made of.
template <class Open>
auto comparison(WeightSource& source, Open open) {
  return [&source, open](const std::filesystem::path& written) {
    Stream stream;
    WorkProgress progress("compared", "matrices");
    const std::unique_ptr<WeightSource> exported = open(written);
    return compare_logits(stream, source, *exported, [&](int64_t done, int64_t of) { progress.update(done, of); });
  };
}

void run_export(const Arguments& arguments) {
  const ElementType& element = *std::ranges::find(element_types, arguments.dtype, &ElementType::option);
  const RowType& type = row_type(element.row_type);
  const ModelDescription model = describe_model(find_model(arguments.model));
  warn_of_refused(model.source);
  const std::unique_ptr<WeightSource> source = open_weights(model);
  WorkProgress work("exported", "MB", 1e6);
  const BytesProgress progress = [&](uint64_t done, uint64_t of) {
    work.update(static_cast<int64_t>(done), static_cast<int64_t>(of));
  };

  if (arguments.format == "gguf") {
    GgufMetadata metadata =
        gguf_model_metadata(model.config, std::filesystem::path(arguments.output).stem().string(), type);
    std::ranges::move(gguf_tokenizer(model.tokenizer.get(), model.config.vocabulary, model.tokens),
                      std::back_inserter(metadata));
    const auto open = [&](const std::filesystem::path& file) { return open_gguf_weights(file, model.config); };
    const GgufResult result = write_gguf_model(
        arguments.output, std::move(metadata),
        gguf_groups(*source, [&](const ParameterInfo&) -> const RowType& { return type; }),
        {.overwrite = arguments.overwrite, .compare = comparison(*source, open), .progress = progress});
    print_summary(arguments, model, result.bytes, 1, result.difference);
    print_tokenizer(model, "in the file");
    fmt::print("load it: llama-cli -m {}\n", arguments.output);
    return;
  }

  FolderOptions options{
      .dtype = element.torch,
      .shard_bytes = static_cast<int64_t>(arguments.shard_bytes),
      .overwrite = arguments.overwrite,
      .tokens = model.tokens,
      .compare = comparison(
          *source, [&](const std::filesystem::path& folder) { return open_huggingface_weights(folder, model.config); }),
      .progress = progress};
  if (model.tokenizer) options.tokenizer_model = model.tokenizer->model();
  const ExportResult result =
      write_huggingface(arguments.output, model.config, huggingface_groups(*source, type), options);
  print_summary(arguments, model, result.bytes, result.files, result.difference);
  print_tokenizer(model, options.tokenizer_model.empty() ? "none stored; ids 0 to 255 are the bytes of the text"
                                                         : tokenizer_file_name);
  fmt::print(
      "load it: python3 -c 'from transformers import AutoModelForCausalLM as M; print(M.from_pretrained(\"{}\"))'\n",
      arguments.output);
}

}  // namespace

void add_export_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("export", "Write a trained model as a folder that other programs load");
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("model", arguments->model, "a run's directory, one of its checkpoints, or a Hugging Face folder")
      ->required()
      ->type_name("CHECKPOINT|RUN");
  command->add_option("--output", arguments->output, "folder to write, of gguf a file; it must not exist or be empty")
      ->required()
      ->type_name("DIR|FILE");
  command
      ->add_option("--format", arguments->format,
                   "safetensors: a folder that Hugging Face transformers loads; gguf: a file for llama.cpp")
      ->check(CLI::IsMember({"safetensors", "gguf"}))
      ->capture_default_str();
  command->add_option("--dtype", arguments->dtype, "element type of the weights")
      ->check(CLI::IsMember({"f32", "f16", "bf16"}))
      ->capture_default_str();
  command->add_option("--shard-size", arguments->shard_bytes, "largest file of safetensors, such as 500MB or 5GB")
      ->transform(CLI::AsSizeValue(true))
      ->check(CLI::Range(uint64_t{1'000'000}, uint64_t{1} << 62))
      ->type_name("SIZE")
      ->default_str("5GB");
  command->add_flag("--overwrite", arguments->overwrite, "replace what an earlier export wrote");
  command->callback([arguments] { run_export(*arguments); });
}

}  // namespace nibble
