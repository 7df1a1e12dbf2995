#include "trainer/run_directory.hpp"

#include <fmt/format.h>

#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "trainer/huggingface.hpp"

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

/// The tokenizer that a checkpoint names; null where nothing of it is stored (llm.c data).
std::unique_ptr<Tokenizer> checkpoint_tokenizer(const TokenizerInfo& info, const fs::path& run_directory) {
  constexpr std::string_view sentencepiece = "sentencepiece:";
  std::unique_ptr<Tokenizer> tokenizer;
  fs::path path = run_directory;
  if (info.identity == "byte") {
    tokenizer = make_byte_tokenizer();
  } else if (info.identity.starts_with(sentencepiece)) {
    path = run_directory / tokenizer_file_name;
    tokenizer = make_sentencepiece_tokenizer(read_file(path, ErrorKind::checkpoint),
                                             info.identity.substr(sentencepiece.size()));
  }
  if (tokenizer && tokenizer->info().hash != info.hash)
    throw Error({.kind = ErrorKind::checkpoint,
                 .what = "the tokenizer is not the one that the model was trained with",
                 .where = path.string(),
                 .seen = hex(tokenizer->info().hash),
                 .allowed = fmt::format("{} ({})", hex(info.hash), info.identity),
                 .next = "put the run's own tokenizer.model back"});
  return tokenizer;
}

LoadedModel load_checkpoint_model(ModelSource source, DType matrix) {
  const CheckpointHeader header = read_checkpoint_header(source.path);
  const ParameterLayout layout(header.model);
  LoadedModel model{.source = std::move(source),
                    .config = header.model,
                    .layout = layout,
                    .weights = ParameterSet(layout, matrix, DType::f32, true, "weights"),
                    .tokenizer = nullptr,
                    .tokens = {},
                    .step = header.step};
  load_checkpoint_weights(model.source.path, model.layout, model.weights);
  model.tokenizer = checkpoint_tokenizer(header.tokenizer, model.source.run_directory);
  if (header.tokenizer.bos >= 0) model.tokens.begin = header.tokenizer.bos;
  if (header.tokenizer.eos >= 0) model.tokens.ends = {header.tokenizer.eos};
  return model;
}

LoadedModel load_huggingface_model(ModelSource source, DType matrix) {
  const ModelConfig config = read_huggingface_config(source.path);
  const ParameterLayout layout(config);
  LoadedModel model{.source = std::move(source),
                    .config = config,
                    .layout = layout,
                    .weights = ParameterSet(layout, matrix, DType::f32, true, "weights"),
                    .tokenizer = nullptr,
                    .tokens = {}};
  import_huggingface(model.source.path, model.layout, model.weights);
  model.tokens = read_huggingface_special_tokens(model.source.path);
  if (const fs::path path = model.source.path / tokenizer_file_name; fs::exists(path))
    model.tokenizer =
        make_sentencepiece_tokenizer(read_file(path, ErrorKind::checkpoint), model.source.path.filename().string());
  return model;
}

}  // namespace

ModelSource find_model(const fs::path& given) {
  std::error_code error;
  const fs::path path = fs::canonical(given, error);  // a checkpoint may be named from inside its run
  if (error) refuse(given, "there is no such model", error.message());
  if (!fs::is_directory(path, error)) refuse(path, "a model is a folder", "a file");
  if (fs::exists(path / "manifest.json", error))
    return {ModelSource::Kind::checkpoint, path, path.parent_path().parent_path(), {}};
  if (fs::is_directory(path / "checkpoints", error)) {
    ModelSource source{ModelSource::Kind::checkpoint, {}, path, {}};
    const std::optional<fs::path> newest = newest_valid_checkpoint(path, source.refused);
    if (!newest)
      refuse(path, "the run has no valid checkpoint",
             source.refused.empty() ? "none was saved"
                                    : fmt::format("{}: {}", source.refused.front().path.filename().string(),
                                                  source.refused.front().reason));
    source.path = *newest;
    return source;
  }
  if (fs::exists(path / "config.json", error)) return {ModelSource::Kind::huggingface, path, {}, {}};
  refuse(path, "the folder holds no model");
}

LoadedModel load_model(const fs::path& path, DType matrix) {
  ModelSource source = find_model(path);
  return source.kind == ModelSource::Kind::checkpoint ? load_checkpoint_model(std::move(source), matrix)
                                                      : load_huggingface_model(std::move(source), matrix);
}

}  // namespace nibble
