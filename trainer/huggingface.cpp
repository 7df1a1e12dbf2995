#include "trainer/huggingface.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "tensor/files.hpp"
#include "trainer/directory.hpp"
#include "trainer/huggingface_weights.hpp"
#include "trainer/safetensors.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

/// Groups to files: each file takes groups in their order until the next would exceed the limit.
std::vector<std::vector<TensorGroup>> split(std::vector<TensorGroup> groups, int64_t shard_bytes) {
  std::vector<std::vector<TensorGroup>> shards;
  uint64_t used = 0;
  for (TensorGroup& group : groups) {
    if (shards.empty() || used + group.bytes() > static_cast<uint64_t>(shard_bytes)) {
      shards.emplace_back();
      used = 0;
    }
    used += group.bytes();
    shards.back().push_back(std::move(group));
  }
  return shards;
}

/// A folder may be replaced only when it is an earlier export and nothing else.
void check_target(const fs::path& directory, bool overwrite) {
  if (!exists(directory, ErrorKind::resource)) return;
  std::error_code error;
  if (!fs::is_directory(directory, error))
    throw Error({.kind = ErrorKind::configuration,
                 .what = "the output exists and is not a folder",
                 .where = directory.string(),
                 .next = "choose another --output"});
  const std::vector<fs::path> entries = list_directory(directory, ErrorKind::resource);
  if (entries.empty()) return;
  if (!overwrite)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "the output folder exists and is not empty",
                 .where = directory.string(),
                 .next = "choose another --output, or replace it with --overwrite"});
  static const std::set<std::string> written = {"config.json",
                                                "generation_config.json",
                                                weights_index_name,
                                                sentencepiece_file_name,
                                                tokenizer_json_file_name,
                                                "tokenizer_config.json",
                                                "special_tokens_map.json"};
  for (const fs::path& entry : entries) {
    const std::string name = entry.filename().string();
    const bool weights = name.starts_with("model") && name.ends_with(".safetensors");
    if (!fs::is_regular_file(entry, error) || !(weights || written.contains(name)))
      throw Error({.kind = ErrorKind::configuration,
                   .what = "the output folder holds something that no export writes; it is not replaced",
                   .where = entry.string(),
                   .next = "choose another --output, or move this away"});
  }
}

void write_json(const fs::path& path, const nlohmann::ordered_json& object) {
  write_file_atomically(path, object.dump(2) + "\n");
}

/// The files as they were given, and a tokenizer_config.json where none was.
void write_tokenizer(const fs::path& folder, const std::vector<TokenizerFile>& files) {
  constexpr const char* config_name = "tokenizer_config.json";
  for (const TokenizerFile& file : files) write_file_atomically(folder / file.name, file.contents);
  if (files.empty() || std::ranges::find(files, config_name, &TokenizerFile::name) != files.end()) return;
  // Without the class, transformers takes a Llama's for one with SentencePiece's rules, and transformers 5 such a model
  // for one that puts no space before the text.
  if (files.front().name == tokenizer_json_file_name)
    write_json(folder / config_name, {{"tokenizer_class", "PreTrainedTokenizerFast"}});
  else
    write_json(folder / config_name,
               {{"tokenizer_class", "LlamaTokenizer"}, {"add_bos_token", true}, {"add_eos_token", false}});
}

/// Of each file of weights; what is measured, in texts whose length does not depend on it.
std::map<std::string, std::string> metadata_of(const FolderOptions& options, const ExportResult& result) {
  std::map<std::string, std::string> metadata = safetensors_metadata;
  metadata.insert(options.facts.begin(), options.facts.end());
  const auto add = [&](const auto& values) {
    for (const auto& [key, value] : values) metadata[key] = fmt::format("{:<12.6e}", value);
  };
  if (options.compare) add(result.difference.values());
  if (options.perplexity) add(result.perplexity.value_or(PerplexityChange()).values());
  return metadata;
}

}  // namespace

std::vector<TensorGroup> huggingface_groups(WeightSource& source, const RowType& type) {
  std::vector<TensorGroup> groups;
  for (size_t i = 0; i < source.parameters(); ++i)
    groups.push_back(encode_rows(source, i, source.info(i).name, huggingface_shape(source.info(i)), type));
  return groups;
}

ExportResult write_huggingface(const fs::path& directory, const ModelConfig& config, std::vector<TensorGroup> groups,
                               const FolderOptions& options) {
  check_target(directory, options.overwrite);
  AtomicDirectory folder(directory);
  ExportResult result;
  for (const TensorGroup& group : groups) result.bytes += static_cast<int64_t>(group.bytes());
  const auto shards = split(std::move(groups), options.shard_bytes);
  result.files = static_cast<int64_t>(shards.size());
  const std::map<std::string, std::string> metadata = metadata_of(options, result);
  std::vector<fs::path> files;
  nlohmann::ordered_json weight_map = nlohmann::ordered_json::object();
  uint64_t written = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shards.size() == 1 ? single_weights_name
                                                : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    for (const TensorGroup& group : shards[i])
      for (const OutputTensor& tensor : group.tensors) weight_map[tensor.name] = name;
    files.push_back(folder.path() / name);
    AtomicFile file(files.back());
    uint64_t bytes = 0;
    write_safetensors(file, shards[i], metadata, [&](uint64_t done, uint64_t of) {
      bytes = of;
      if (options.progress) options.progress(written + done, static_cast<uint64_t>(result.bytes));
    });
    written += bytes;
    file.commit();
  }
  if (shards.size() > 1)
    write_json(folder.path() / weights_index_name,
               {{"metadata", {{"total_size", result.bytes}}}, {"weight_map", weight_map}});

  nlohmann::ordered_json described = huggingface_config(config, options.dtype, options.tokens);
  write_json(folder.path() / "generation_config.json",
             {{"bos_token_id", described["bos_token_id"]}, {"eos_token_id", described["eos_token_id"]}});
  if (!options.quantization.is_null()) described["quantization_config"] = options.quantization;
  write_json(folder.path() / "config.json", described);
  write_tokenizer(folder.path(), options.tokenizer_files);
  if (options.compare) result.difference = options.compare(folder.path());
  if (options.perplexity) result.perplexity = options.perplexity(folder.path());
  if (options.compare || options.perplexity)
    for (const fs::path& file : files) replace_safetensors_metadata(file, metadata_of(options, result));
  folder.commit();
  return result;
}

ExportResult export_huggingface(const fs::path& directory, const ModelConfig& config, const ParameterSet& weights,
                                const ExportOptions& options) {
  const std::unique_ptr<WeightSource> source = held_weights(config, weights);
  const bool narrow = options.dtype == DType::bf16;
  return write_huggingface(directory, config, huggingface_groups(*source, row_type(narrow ? "BF16" : "F32")),
                           {.dtype = narrow ? "bfloat16" : "float32",
                            .shard_bytes = options.shard_bytes,
                            .overwrite = options.overwrite,
                            .tokens = options.tokens,
                            .tokenizer_files = options.tokenizer_files});
}

}  // namespace nibble
