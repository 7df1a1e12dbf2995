#include "trainer/huggingface_weights.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <vector>

#include "data/json_fields.hpp"
#include "tensor/files.hpp"
#include "trainer/directory.hpp"
#include "trainer/huggingface_config.hpp"
#include "trainer/memory.hpp"
#include "trainer/packed_matrix.hpp"
#include "trainer/safetensors.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* head_name = "lm_head.weight";
constexpr const char* embedding_name = "model.embed_tokens.weight";

/// "a, b and 7 more"
std::string list(const std::vector<std::string>& names) {
  constexpr size_t shown = 4;
  if (names.size() <= shown) return fmt::format("{}", fmt::join(names, ", "));
  return fmt::format("{} and {} more", fmt::join(names.begin(), names.begin() + shown, ", "), names.size() - shown);
}

/// The tensors of a folder, wherever they lie.
class WeightFiles {
 public:
  explicit WeightFiles(const fs::path& directory) : directory_(directory) {
    const auto holds = [&](const char* name) { return exists(directory / name, ErrorKind::checkpoint); };
    if (holds(single_weights_name)) open_single();
    else if (holds(weights_index_name)) open_shards();
    else
      throw Error({.kind = ErrorKind::checkpoint,
                   .what = "the folder holds no weights",
                   .where = directory.string(),
                   .allowed = fmt::format("{} or {}", single_weights_name, weights_index_name),
                   .next = holds("pytorch_model.bin") || holds("pytorch_model.bin.index.json")
                               ? "only safetensors are read: fetch them, or convert pytorch_model.bin"
                               : "check the path, or fetch the model again"});
  }

  const fs::path& directory() const { return directory_; }
  const std::map<std::string, const SafetensorsFile*>& tensors() const { return tensors_; }
  bool contains(const std::string& name) const { return tensors_.contains(name); }
  void release() const {
    for (const auto& [name, file] : files_) file.release();
  }
  const SafetensorsFile& file_of(const std::string& name) const { return *tensors_.at(name); }
  const SafetensorsEntry& entry(const std::string& name) const { return file_of(name).entry(name); }

 private:
  void open_single() {
    files_.emplace(single_weights_name, SafetensorsFile(directory_ / single_weights_name));
    const SafetensorsFile& file = files_.at(single_weights_name);
    for (const auto& [name, entry] : file.entries()) tensors_[name] = &file;
  }

  void open_shards() {
    const fs::path path = directory_ / weights_index_name;
    const json index = parse_json(read_file(path, ErrorKind::checkpoint), path.string(), ErrorKind::checkpoint);
    const JsonFields fields(index, path.string(), ErrorKind::checkpoint);
    const json& map = fields.object("weight_map");
    const JsonFields names(map, path.string() + ": weight_map", ErrorKind::checkpoint);
    std::set<std::string> shards, missing;
    for (const auto& item : map.items()) {
      const std::string& tensor = item.key();
      const std::string& shard = names.text(tensor);
      // A name with a path in it would open files outside the folder.
      if (shard.find('/') != std::string::npos || !shard.ends_with(".safetensors"))
        names.refuse(tensor, "a shard's name cannot be", "a *.safetensors file in the same folder");
      shards.insert(shard);
    }
    for (const std::string& shard : shards)
      if (!exists(directory_ / shard, ErrorKind::checkpoint)) missing.insert(shard);
    if (!missing.empty())
      throw Error(
          {.kind = ErrorKind::checkpoint,
           .what = "shards of the weights are missing",
           .where = directory_.string(),
           .seen = fmt::format("{} of {}: {}", missing.size(), shards.size(), list({missing.begin(), missing.end()})),
           .allowed = fmt::format("all files that {} names", weights_index_name),
           .next = "fetch the model again, all of it"});
    for (const std::string& shard : shards) files_.emplace(shard, SafetensorsFile(directory_ / shard));
    for (const auto& item : map.items()) {
      const std::string& tensor = item.key();
      const std::string& shard = names.text(tensor);
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

/// Buffers that old exports carried along; their values follow from config.json.
bool is_derived(const std::string& name) { return name.ends_with(".rotary_emb.inv_freq"); }

bool has_head(const ParameterLayout& layout) {
  return std::ranges::any_of(layout.parameters(), [](const ParameterInfo& info) { return info.name == head_name; });
}

/// Those matrices that are stored as codes and scales, by the parameter's name.
using PackedMatrices = std::map<std::string, PackedMatrix>;

PackedMatrices packed_matrices(const WeightFiles& files, const ParameterLayout& layout) {
  const auto file_of = [&](const std::string& tensor) {
    return files.contains(tensor) ? &files.file_of(tensor) : nullptr;
  };
  PackedMatrices packed;
  for (const ParameterInfo& info : layout.parameters())
    if (info.kind == ParameterKind::projection)
      if (auto matrix = PackedMatrix::find(file_of, info.name, info.rows, info.cols))
        packed.emplace(info.name, *matrix);
  return packed;
}

void check_names_and_shapes(const WeightFiles& files, const PackedMatrices& packed, const ParameterLayout& layout) {
  std::vector<std::string> missing, unexpected, misshaped;
  std::set<std::string> known;
  for (const ParameterInfo& info : layout.parameters()) {
    if (const auto matrix = packed.find(info.name); matrix != packed.end()) {
      known.insert(matrix->second.tensors().begin(), matrix->second.tensors().end());
      continue;
    }
    known.insert(info.name);
    if (!files.contains(info.name)) {
      missing.push_back(info.name);
      continue;
    }
    const SafetensorsEntry& entry = files.entry(info.name);
    if (entry.shape != huggingface_shape(info))
      misshaped.push_back(
          fmt::format("{} {} instead of {}", info.name, to_string(entry.shape), to_string(huggingface_shape(info))));
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

/// The files of a folder that holds what the layout says.
class CheckedWeights {
 public:
  CheckedWeights(const fs::path& directory, const ParameterLayout& layout) : files_(directory) {
    packed_ = packed_matrices(files_, layout);
    check_names_and_shapes(files_, packed_, layout);
    if (!has_head(layout) && files_.contains(head_name)) check_tied_head(files_);
    files_.release();
  }

  void read_rows(const std::string& name, int64_t first, const Tensor& into) const {
    const auto packed = packed_.find(name);
    const SafetensorsFile& file = files_.file_of(packed == packed_.end() ? name : packed->second.tensors().front());
    if (packed == packed_.end()) file.read_rows(name, first, into);
    else packed->second.read_rows(first, into);
    file.release();
    if (!(into.dtype == DType::bf16 ? all_finite<bf16>(into) : all_finite<float>(into)))
      throw Error({.kind = ErrorKind::checkpoint,
                   .what = "a weight is infinite or not a number",
                   .where = fmt::format("{}: tensor {}", file.path().string(), name),
                   .next = "the model has diverged or the file is damaged: choose another"});
  }

 private:
  WeightFiles files_;
  PackedMatrices packed_;
};

class HuggingFaceWeights final : public WeightSource {
 public:
  HuggingFaceWeights(const fs::path& directory, const ModelConfig& config)
      : WeightSource(config), weights_(directory, layout()) {}

  void read_rows(size_t parameter, int64_t first, const Tensor& into) override {
    weights_.read_rows(info(parameter).name, first, into);
  }

 private:
  CheckedWeights weights_;
};

}  // namespace

std::vector<int64_t> huggingface_shape(const ParameterInfo& info) {
  return info.kind == ParameterKind::norm ? std::vector{info.cols} : std::vector{info.rows, info.cols};
}

std::unique_ptr<WeightSource> open_huggingface_weights(const fs::path& directory, const ModelConfig& config) {
  return std::make_unique<HuggingFaceWeights>(directory, config);
}

ParameterSet import_huggingface(const fs::path& directory, const ParameterLayout& layout, DType matrix) {
  const CheckedWeights files(directory, layout);
  ParameterSet weights(layout, matrix, DType::f32, true, "weights");
  require_held_memory();
  for (size_t i = 0; i < weights.size(); ++i) files.read_rows(layout.parameters()[i].name, 0, weights[i]);
  return weights;
}

}  // namespace nibble
