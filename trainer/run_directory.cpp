#include "trainer/run_directory.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "trainer/checkpoint_load.hpp"
#include "trainer/directory.hpp"
#include "trainer/huggingface_weights.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void refuse(const fs::path& path, std::string what, std::string seen = {}) {
  throw Error({.kind = ErrorKind::checkpoint,
               .what = std::move(what),
               .where = path.string(),
               .seen = std::move(seen),
               .allowed = "a run's directory, RUN/checkpoints/step_00000500, or a Hugging Face folder with config.json",
               .next = "check the path"});
}

/// The tokenizer that a checkpoint names; null where it holds nothing of it (llm.c data).
std::unique_ptr<Tokenizer> checkpoint_tokenizer(const VerifiedCheckpoint& checkpoint) {
  const TokenizerInfo& info = checkpoint.header().tokenizer;
  std::unique_ptr<Tokenizer> tokenizer = make_recorded_tokenizer(info, checkpoint.header().tokenizer_files);
  if (tokenizer && tokenizer->info().hash != info.hash)
    throw Error({.kind = ErrorKind::checkpoint,
                 .what = "the tokenizer is not the one that the model was trained with",
                 .where = checkpoint.path.string(),
                 .seen = hex(tokenizer->info().hash),
                 .allowed = fmt::format("{} ({})", hex(info.hash), info.identity),
                 .next = "choose a checkpoint that is as nibble wrote it"});
  return tokenizer;
}

ModelDescription describe_checkpoint(ModelSource source) {
  const VerifiedCheckpoint& checkpoint = *source.checkpoint;
  const CheckpointHeader& header = checkpoint.header();
  ModelDescription model{.source = {},
                         .config = header.model,
                         .tokenizer = checkpoint_tokenizer(checkpoint),
                         .tokenizer_problem = {},
                         .tokens = {},
                         .step = header.step};
  if (!model.tokenizer)
    model.tokenizer_problem =
        fmt::format("the checkpoint holds no model of the tokenizer {}", header.tokenizer.identity);
  if (header.tokenizer.bos >= 0) model.tokens.begin = header.tokenizer.bos;
  if (header.tokenizer.eos >= 0) model.tokens.ends = {header.tokenizer.eos};
  model.source = std::move(source);
  return model;
}

bool has_steps(const ModelSource& source) {
  return source.checkpoint && std::ranges::any_of(source.checkpoint->manifest.tensors, [](const auto& tensor) {
           return tensor.name.ends_with(".quantizer_steps");
         });
}

ModelDescription describe_huggingface(ModelSource source) {
  ModelDescription model{.source = {},
                         .config = read_huggingface_config(source.path),
                         .tokenizer = nullptr,
                         .tokenizer_problem = {},
                         .tokens = read_huggingface_special_tokens(source.path)};
  try {  // evaluation and export do without one
    model.tokenizer = make_folder_tokenizer(source.path);
  } catch (const Error& problem) {
    const ErrorDetail& detail = problem.detail();
    model.tokenizer_problem = detail.seen.empty() ? detail.what : fmt::format("{} ({})", detail.what, detail.seen);
  }
  model.source = std::move(source);
  return model;
}

}  // namespace

ModelSource find_model(const fs::path& given) {
  std::error_code error;
  const fs::path path = fs::canonical(given, error);  // a checkpoint may be named from inside its run
  if (error) refuse(given, "there is no such model", error.message());
  if (!fs::is_directory(path, error)) refuse(path, "a model is a folder", "a file");
  if (fs::exists(path / "manifest.json", error)) return {path, open_checkpoint(path), {}};
  if (fs::is_directory(path / "checkpoints", error)) {
    ModelSource source;
    source.checkpoint = newest_valid_checkpoint(path, source.refused);
    if (!source.checkpoint)
      refuse(path, "the run has no valid checkpoint",
             source.refused.empty() ? "none was saved"
                                    : fmt::format("{}: {}", source.refused.front().path.filename().string(),
                                                  source.refused.front().reason));
    source.path = source.checkpoint->path;
    return source;
  }
  if (fs::exists(path / "config.json", error)) return {path, std::nullopt, {}};
  refuse(path, "the folder holds no model");
}

ModelDescription describe_model(ModelSource source) {
  return source.checkpoint ? describe_checkpoint(std::move(source)) : describe_huggingface(std::move(source));
}

std::unique_ptr<WeightSource> open_weights(const ModelDescription& model) {
  return model.source.checkpoint ? open_checkpoint_weights(*model.source.checkpoint)
                                 : open_huggingface_weights(model.source.path, model.config);
}

LoadedModel load_model(const fs::path& path, DType matrix, bool with_steps) {
  ModelSource source = find_model(path);
  if (with_steps && !has_steps(source))
    throw Error({.kind = ErrorKind::checkpoint,
                 .what = "the recipe's quantizers have steps that training learns, and this model has none",
                 .where = source.path.string(),
                 .allowed = "a run that was trained with a recipe of the families lsq and pact",
                 .next = "train with it first, from this model with model.from, or choose another recipe"});
  ModelDescription description = describe_model(std::move(source));
  const ParameterLayout layout(description.config, with_steps);
  ParameterSet weights = description.source.checkpoint
                             ? load_checkpoint_weights(*description.source.checkpoint, layout, matrix)
                             : import_huggingface(description.source.path, layout, matrix);
  return {std::move(description), layout, std::move(weights)};
}

}  // namespace nibble
