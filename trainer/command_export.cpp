#include "trainer/command_export.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>

#include "trainer/huggingface.hpp"
#include "trainer/run_directory.hpp"

namespace nibble {
namespace {

struct Arguments {
  std::string model, output, format = "safetensors", dtype = "bf16";
  uint64_t shard_bytes = ExportOptions{}.shard_bytes;
  bool overwrite = false;
};

void run_export(const Arguments& arguments) {
  const DType dtype = arguments.dtype == "f32" ? DType::f32 : DType::bf16;
  const LoadedModel model = load_model(arguments.model, dtype);
  for (const RefusedCheckpoint& refused : model.source.refused)
    fmt::print(stderr, "warning: {} is passed over: {}\n", refused.path.string(), refused.reason);

  ExportOptions options{.dtype = dtype,
                        .shard_bytes = static_cast<int64_t>(arguments.shard_bytes),
                        .overwrite = arguments.overwrite,
                        .tokens = model.tokens};
  if (model.tokenizer) options.tokenizer_model = model.tokenizer->model();
  const ExportResult result = export_huggingface(arguments.output, model.config, model.layout, model.weights, options);

  fmt::print("{}\n  from      {}\n  weights   {} parameters as {}, {:.1f} MB in {} file{}\n", arguments.output,
             model.source.path.string(), model.config.parameters(), name(dtype),
             static_cast<double>(result.bytes) / 1e6, result.files, result.files == 1 ? "" : "s");
  if (options.tokenizer_model.empty())
    fmt::print("  tokenizer none stored; {}\n",
               model.tokenizer ? "ids 0 to 255 are the bytes of the text" : model.tokenizer_problem);
  else fmt::print("  tokenizer {}\n", tokenizer_file_name);
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
  command->add_option("--output", arguments->output, "folder to write; it must not exist or be empty")
      ->required()
      ->type_name("DIR");
  command->add_option("--format", arguments->format, "safetensors: as Hugging Face transformers loads it")
      ->check(CLI::IsMember({"safetensors"}))
      ->capture_default_str();
  command->add_option("--dtype", arguments->dtype, "element type of the weights")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
  command->add_option("--shard-size", arguments->shard_bytes, "largest file of weights, such as 500MB or 5GB")
      ->transform(CLI::AsSizeValue(true))
      ->check(CLI::Range(uint64_t{1'000'000}, uint64_t{1} << 62))
      ->type_name("SIZE")
      ->default_str("5GB");
  command->add_flag("--overwrite", arguments->overwrite, "replace a folder that an earlier export wrote");
  command->callback([arguments] { run_export(*arguments); });
}

}  // namespace nibble
