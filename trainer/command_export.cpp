#include "trainer/command_export.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "trainer/gguf_model.hpp"
#include "trainer/gguf_tokenizer.hpp"
#include "trainer/huggingface.hpp"
#include "trainer/huggingface_weights.hpp"
#include "trainer/packed_export.hpp"
#include "trainer/progress.hpp"
#include "trainer/run_parts.hpp"

namespace nibble {
namespace {

struct Arguments {
  std::string model, output, format = "safetensors", dtype = "bf16", quantize, data;
  uint64_t shard_bytes = FolderOptions{}.shard_bytes;
  int64_t tokens = 16384;
  bool overwrite = false, weights_only = false;
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

void print_summary(const Arguments& arguments, const ModelDescription& model, const PackedExport* packed, int64_t bytes,
                   int64_t files, const LogitDifference& difference,
                   const std::optional<PerplexityChange>& perplexity) {
  fmt::print("{}\n  from      {}\n  weights   {} parameters as {}, {:.1f} MB in {} file{}\n", arguments.output,
             model.source.path.string(), model.config.parameters(), arguments.dtype, static_cast<double>(bytes) / 1e6,
             files, files == 1 ? "" : "s");
  if (packed) {
    for (const std::string& note : packed->notes()) fmt::print("            {}\n", note);
    if (perplexity)
      fmt::print("  perplexity {:.6g} before, {:.6g} after ({} tokens, fp32)\n", perplexity->before, perplexity->after,
                 perplexity->tokens);
    else fmt::print("  perplexity not measured: name tokens with --data FILE\n");
  }
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

/// Perplexity of what was written.
template <class Open>
std::function<PerplexityChange(const std::filesystem::path&)> measurement(PackedExport* packed, Open open) {
  if (!packed || !packed->measures()) return {};
  return [packed, open](const std::filesystem::path& written) {
    const std::unique_ptr<WeightSource> exported = open(written);
    return packed->measure(*exported);
  };
}

void run_export(const Arguments& arguments) {
  const ElementType& element = *std::ranges::find(element_types, arguments.dtype, &ElementType::option);
  const RowType& type = row_type(element.row_type);
  const ModelDescription model = describe_model(find_model(arguments.model));
  warn_of_refused(model.source);
  const std::unique_ptr<WeightSource> masters = open_weights(model);
  Stream stream;
  std::optional<PackedExport> packed;
  if (!arguments.quantize.empty())
    packed.emplace(stream, model, *masters,
                   PackedExportOptions{.quantize = arguments.quantize,
                                       .gguf = arguments.format == "gguf",
                                       .data = arguments.data,
                                       .tokens = arguments.tokens,
                                       .weights_only = arguments.weights_only});
  PackedExport* const quantized = packed ? &*packed : nullptr;
  WeightSource& source = packed ? packed->source() : *masters;
  WorkProgress work("exported", "MB", 1e6);
  const BytesProgress progress = [&](uint64_t done, uint64_t of) {
    work.update(static_cast<int64_t>(done), static_cast<int64_t>(of));
  };

  if (arguments.format == "gguf") {
    GgufMetadata metadata = gguf_model_metadata(model.config, std::filesystem::path(arguments.output).stem().string(),
                                                packed ? packed->main_type() : type);
    if (packed) std::ranges::move(packed->facts(), std::back_inserter(metadata));
    std::ranges::move(gguf_tokenizer(model.tokenizer.get(), model.config.vocabulary, model.tokens),
                      std::back_inserter(metadata));
    const auto open = [&](const std::filesystem::path& file) { return open_gguf_weights(file, model.config); };
    const GgufResult result = write_gguf_model(arguments.output, std::move(metadata),
                                               gguf_groups(source,
                                                           [&](const ParameterInfo& info) -> const RowType& {
                                                             return packed ? packed->matrix_type(info, type) : type;
                                                           }),
                                               {.overwrite = arguments.overwrite,
                                                .compare = comparison(source, open),
                                                .perplexity = measurement(quantized, open),
                                                .progress = progress});
    print_summary(arguments, model, quantized, result.bytes, 1, result.difference, result.perplexity);
    print_tokenizer(model, "in the file");
    fmt::print("load it: llama-cli -m {}\n", arguments.output);
    return;
  }

  const auto open = [&](const std::filesystem::path& folder) { return open_huggingface_weights(folder, model.config); };
  FolderOptions options{.dtype = element.torch,
                        .shard_bytes = static_cast<int64_t>(arguments.shard_bytes),
                        .overwrite = arguments.overwrite,
                        .tokens = model.tokens,
                        .compare = comparison(source, open),
                        .perplexity = measurement(quantized, open),
                        .progress = progress};
  if (model.tokenizer) options.tokenizer_files = model.tokenizer->files();
  if (packed) {
    options.quantization = packed->config();
    options.facts = packed->facts();
  }
  const ExportResult result = write_huggingface(
      arguments.output, model.config, packed ? packed->folder_groups(type) : huggingface_groups(source, type), options);
  print_summary(arguments, model, quantized, result.bytes, result.files, result.difference, result.perplexity);
  print_tokenizer(model, options.tokenizer_files.empty() ? "none stored; ids 0 to 255 are the bytes of the text"
                                                         : options.tokenizer_files.front().name.c_str());
  fmt::print(
      "load it: python3 -c 'from transformers import AutoModelForCausalLM as M; print(M.from_pretrained(\"{}\"))'\n",
      arguments.output);
}

}  // namespace

void add_export_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("export", "Write a trained model as a folder or a file that other programs load");
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
  command
      ->add_option(
          "--quantize", arguments->quantize,
          "projections as codes: nvfp4, mxfp4, fp8, int8 (compressed-tensors), of gguf q8_0, q4_0, mxfp4; "
          "trained: the codes that training multiplied, or nothing. A format that training multiplied is packed "
          "as it did, others are rounded to nearest")
      ->type_name("FORMAT");
  CLI::Option* const data =
      command->add_option("--data", arguments->data, "token file: measure the perplexity before and after --quantize")
          ->type_name("FILE")
          ->needs(command->get_option("--quantize"));
  command->add_option("--tokens", arguments->tokens, "so many of them")
      ->needs(data)
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag(
      "--weights-only", arguments->weights_only,
      "say nothing of activations, which otherwise are quantized as in training, where the format can say "
      "it (nvfp4 with --data only)");
  command->add_flag("--overwrite", arguments->overwrite, "replace what an earlier export wrote");
  command->callback([arguments] { run_export(*arguments); });
}

}  // namespace nibble
