#include "trainer/huggingface.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <vector>

#include "tensor/files.hpp"
#include "trainer/directory.hpp"
#include "trainer/json_fields.hpp"
#include "trainer/memory.hpp"
#include "trainer/safetensors.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* head_name = "lm_head.weight";
constexpr const char* embedding_name = "model.embed_tokens.weight";
constexpr const char* single_name = "model.safetensors";
constexpr const char* index_name = "model.safetensors.index.json";

/// The tensors of a folder, wherever they lie.
class WeightFiles {
 public:
  explicit WeightFiles(const fs::path& directory) : directory_(directory) {
    const auto holds = [&](const char* name) { return exists(directory / name, ErrorKind::checkpoint); };
    if (holds(single_name)) open_single();
    else if (holds(index_name)) open_shards();
    else
      throw Error({.kind = ErrorKind::checkpoint,
                   .what = "the folder holds no weights",
                   .where = directory.string(),
                   .allowed = fmt::format("{} or {}", single_name, index_name),
                   .next = holds("pytorch_model.bin") || holds("pytorch_model.bin.index.json")
                               ? "only safetensors are read: fetch them, or convert pytorch_model.bin"
                               : "check the path, or fetch the model again"});
  }

  const fs::path& directory() const { return directory_; }
  const std::map<std::string, const SafetensorsFile*>& tensors() const { return tensors_; }
  bool contains(const std::string& name) const { return tensors_.contains(name); }
  const SafetensorsFile& file_of(const std::string& name) const { return *tensors_.at(name); }
  const SafetensorsEntry& entry(const std::string& name) const { return file_of(name).entry(name); }

 private:
  void open_single() {
    files_.emplace(single_name, SafetensorsFile(directory_ / single_name));
    const SafetensorsFile& file = files_.at(single_name);
    for (const auto& [name, entry] : file.entries()) tensors_[name] = &file;
  }

  void open_shards() {
    const fs::path path = directory_ / index_name;
    const json index = parse_json(read_file(path, ErrorKind::checkpoint), path.string(), ErrorKind::checkpoint);
    const JsonFields fields(index, path.string(), ErrorKind::checkpoint);
    const json& map = fields.object("weight_map");
    const JsonFields names(map, path.string() + ": weight_map", ErrorKind::checkpoint);
    for (const auto& item : map.items()) {
      const std::string& tensor = item.key();
      const std::string& shard = names.text(tensor);
      // A name with a path in it would open files outside the folder.
      if (shard.find('/') != std::string::npos || !shard.ends_with(".safetensors"))
        names.refuse(tensor, "a shard's name cannot be", "a *.safetensors file in the same folder");
      if (!files_.contains(shard)) files_.emplace(shard, SafetensorsFile(directory_ / shard));
      const SafetensorsFile& file = files_.at(shard);
      if (!file.contains(tensor))
        names.refuse(tensor, "the index and a shard disagree: the shard does not hold the tensor", "",
                     "shards of different models are mixed, or one is damaged: fetch the model again");
      tensors_[tensor] = &file;
    }
    for (const auto& [shard, file] : files_)
      for (const auto& [name, entry] : file.entries())
        if (!tensors_.contains(name) || tensors_.at(name) != &file)
          throw Error({.kind = ErrorKind::checkpoint,
                       .what = "the index and a shard disagree: the index does not place the tensor there",
                       .where = fmt::format("{}: tensor {}", (directory_ / shard).string(), name),
                       .next = "shards of different models are mixed: fetch the model again"});
  }

  fs::path directory_;
  std::map<std::string, SafetensorsFile> files_;
  std::map<std::string, const SafetensorsFile*> tensors_;
};

std::vector<int64_t> shape_of(const ParameterInfo& info) {
  return info.kind == ParameterKind::norm ? std::vector{info.cols} : std::vector{info.rows, info.cols};
}

/// Buffers that old exports carried along; their values follow from config.json.
bool is_derived(const std::string& name) { return name.ends_with(".rotary_emb.inv_freq"); }

bool has_head(const ParameterLayout& layout) {
  return std::ranges::any_of(layout.parameters(), [](const ParameterInfo& info) { return info.name == head_name; });
}

/// "a, b and 7 more"
std::string list(const std::vector<std::string>& names) {
  constexpr size_t shown = 4;
  if (names.size() <= shown) return fmt::format("{}", fmt::join(names, ", "));
  return fmt::format("{} and {} more", fmt::join(names.begin(), names.begin() + shown, ", "), names.size() - shown);
}

void check_names_and_shapes(const WeightFiles& files, const ParameterLayout& layout) {
  std::vector<std::string> missing, unexpected, misshaped;
  std::set<std::string> known;
  for (const ParameterInfo& info : layout.parameters()) {
    known.insert(info.name);
    if (!files.contains(info.name)) {
      missing.push_back(info.name);
      continue;
    }
    const SafetensorsEntry& entry = files.entry(info.name);
    if (entry.shape != shape_of(info))
      misshaped.push_back(
          fmt::format("{} {} instead of {}", info.name, to_string(entry.shape), to_string(shape_of(info))));
  }
  for (const auto& [name, file] : files.tensors())
    if (!known.contains(name) && !is_derived(name) && name != head_name) unexpected.push_back(name);
  if (missing.empty() && unexpected.empty() && misshaped.empty()) return;

  std::vector<std::string> seen;
  if (!missing.empty()) seen.push_back("missing: " + list(missing));
  if (!unexpected.empty()) seen.push_back("unexpected: " + list(unexpected));
  if (!misshaped.empty()) seen.push_back("of another shape: " + list(misshaped));
  throw Error({.kind = ErrorKind::checkpoint,
               .what = "the weights are not those of the Llama that config.json describes",
               .where = files.directory().string(),
               .seen = fmt::format("{}", fmt::join(seen, "; ")),
               .allowed = fmt::format("{} tensors with the names and shapes of {}ForCausalLM", known.size(),
                                      layout.has_qk_norm() ? "Qwen3" : "Llama"),
               .next = "fetch config.json and weights of the same model"});
}

/// The embedding and a head that is said to be tied to it must hold the same numbers.
void check_tied_head(const WeightFiles& files) {
  const SafetensorsEntry& head = files.entry(head_name);
  const SafetensorsEntry& embedding = files.entry(embedding_name);
  bool equal = head.shape == embedding.shape;
  OwnedTensor head_row(DType::f32, 1, head.cols()), embedding_row(DType::f32, 1, embedding.cols());
  for (int64_t i = 0; equal && i < head.rows(); ++i) {
    files.file_of(head_name).read_rows(head_name, i, head_row);
    files.file_of(embedding_name).read_rows(embedding_name, i, embedding_row);
    const float* row = head_row.view().as<float>();
    equal = std::equal(row, row + head.cols(), embedding_row.view().as<float>());
  }
  if (!equal)
    throw Error({.kind = ErrorKind::checkpoint,
                 .what = "config.json ties the head to the embedding, yet the two differ",
                 .where = fmt::format("{}: tensor {}", files.directory().string(), head_name),
                 .next = "set \"tie_word_embeddings\" to false in config.json, or remove the tensor"});
}

template <class T>
bool all_finite(const Tensor& tensor) {
  for (int64_t i = 0; i < tensor.rows; ++i) {
    const T* row = tensor.row<T>(i);
    if (!std::all_of(row, row + tensor.cols, [](T value) { return std::isfinite(static_cast<float>(value)); }))
      return false;
  }
  return true;
}

/// Tensors to files: each file takes tensors in the model's order until the next would exceed the limit.
std::vector<std::vector<SafetensorsItem>> split(std::vector<SafetensorsItem> items, int64_t shard_bytes) {
  std::vector<std::vector<SafetensorsItem>> shards;
  uint64_t used = 0;
  for (SafetensorsItem& item : items) {
    if (shards.empty() || used + item.bytes() > static_cast<uint64_t>(shard_bytes)) {
      shards.emplace_back();
      used = 0;
    }
    used += item.bytes();
    shards.back().push_back(std::move(item));
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
  static const std::set<std::string> written = {"config.json", "generation_config.json", tokenizer_file_name,
                                                "tokenizer_config.json", index_name};
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

}  // namespace

ParameterSet import_huggingface(const fs::path& directory, const ParameterLayout& layout, DType matrix) {
  const WeightFiles files(directory);
  check_names_and_shapes(files, layout);
  if (!has_head(layout) && files.contains(head_name)) check_tied_head(files);
  ParameterSet weights(layout, matrix, DType::f32, true, "weights");
  require_held_memory();
  const std::vector<ParameterInfo>& parameters = layout.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Tensor& tensor = weights[i];
    files.file_of(parameters[i].name).read(parameters[i].name, tensor);
    if (!(tensor.dtype == DType::bf16 ? all_finite<bf16>(tensor) : all_finite<float>(tensor)))
      throw Error(
          {.kind = ErrorKind::checkpoint,
           .what = "a weight is infinite or not a number",
           .where = fmt::format("{}: tensor {}", files.file_of(parameters[i].name).path().string(), parameters[i].name),
           .next = "the model has diverged or the file is damaged: choose another"});
  }
  return weights;
}

ExportResult export_huggingface(const fs::path& directory, const ModelConfig& config, const ParameterLayout& layout,
                                const ParameterSet& weights, const ExportOptions& options) {
  check_target(directory, options.overwrite);
  AtomicDirectory folder(directory);
  std::vector<SafetensorsItem> items;
  ExportResult result;
  for (size_t i = 0; i < weights.size(); ++i) {
    const ParameterInfo& info = layout.parameters()[i];
    items.push_back({info.name, shape_of(info), weights[i], options.dtype});
    result.bytes += static_cast<int64_t>(items.back().bytes());
  }
  const auto shards = split(std::move(items), options.shard_bytes);
  result.files = static_cast<int64_t>(shards.size());
  nlohmann::ordered_json weight_map = nlohmann::ordered_json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name =
        shards.size() == 1 ? single_name : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    for (const SafetensorsItem& item : shards[i]) weight_map[item.name] = name;
    write_safetensors(folder.path() / name, shards[i]);
  }
  if (shards.size() > 1)
    write_json(folder.path() / index_name, {{"metadata", {{"total_size", result.bytes}}}, {"weight_map", weight_map}});

  const nlohmann::ordered_json described = huggingface_config(config, options.dtype, options.tokens);
  write_json(folder.path() / "config.json", described);
  write_json(folder.path() / "generation_config.json",
             {{"bos_token_id", described["bos_token_id"]}, {"eos_token_id", described["eos_token_id"]}});
  if (!options.tokenizer_model.empty()) {
    write_file_atomically(folder.path() / tokenizer_file_name, options.tokenizer_model);
    // Without the class, transformers 5 reads the model as one that puts no space before the text.
    write_json(folder.path() / "tokenizer_config.json",
               {{"tokenizer_class", "LlamaTokenizer"}, {"add_bos_token", true}, {"add_eos_token", false}});
  }
  folder.commit();
  return result;
}

}  // namespace nibble
