#include "trainer/gguf_model.hpp"

#include <fmt/format.h>

#include <array>
#include <limits>
#include <utility>

#include "model/rope.hpp"
#include "tensor/error.hpp"
#include "trainer/directory.hpp"
#include "trainer/huggingface_weights.hpp"
#include "trainer/safetensors.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr const char* rope_divisors_name = "rope_freqs.weight";

/// What Hugging Face calls it within a block, and what GGUF does.
constexpr std::array<std::pair<std::string_view, std::string_view>, 11> names_in_block = {
    {{"input_layernorm", "attn_norm"},
     {"self_attn.q_proj", "attn_q"},
     {"self_attn.k_proj", "attn_k"},
     {"self_attn.v_proj", "attn_v"},
     {"self_attn.q_norm", "attn_q_norm"},
     {"self_attn.k_norm", "attn_k_norm"},
     {"self_attn.o_proj", "attn_output"},
     {"post_attention_layernorm", "ffn_norm"},
     {"mlp.gate_proj", "ffn_gate"},
     {"mlp.up_proj", "ffn_up"},
     {"mlp.down_proj", "ffn_down"}}};

std::string gguf_name(const ParameterInfo& info) {
  if (info.kind == ParameterKind::embedding) return "token_embd.weight";
  if (info.kind == ParameterKind::head) return "output.weight";
  if (info.layer < 0) return "output_norm.weight";
  const std::string before = fmt::format("model.layers.{}.", info.layer);
  for (const auto& [huggingface, gguf] : names_in_block)
    if (info.name == fmt::format("{}{}.weight", before, huggingface))
      return fmt::format("blk.{}.{}.weight", info.layer, gguf);
  throw Error({.kind = ErrorKind::internal, .what = "a parameter has no name in GGUF", .where = info.name});
}

const char* architecture(const ModelConfig& config) { return config.qk_norm ? "qwen3" : "llama"; }

/// Of parameters whose rows are written in interleaved order, the channels of a head; else 0.
int64_t interleaved_head(const ModelConfig& config, const ParameterInfo& info) {
  const bool rotated = info.name.ends_with(".q_proj.weight") || info.name.ends_with(".k_proj.weight");
  return rotated && !config.qk_norm ? config.head_dim : 0;
}

/// What llama.cpp divides RoPE's frequencies by: the rescaling of Llama 3.1.
TensorGroup rope_divisors(const ModelConfig& config) {
  ModelConfig plain = config;
  plain.rope_scaling.reset();
  const std::vector<double> rescaled = rope_frequencies(config), frequencies = rope_frequencies(plain);
  std::vector<float> divisors;
  for (size_t i = 0; i < frequencies.size(); ++i) divisors.push_back(static_cast<float>(frequencies[i] / rescaled[i]));
  return {.tensors = {{rope_divisors_name, "F32", {std::ssize(divisors)}, divisors.size() * sizeof(float)}},
          .write = [divisors](std::span<const ByteSink> sinks) { sinks[0](std::as_bytes(std::span(divisors))); }};
}

/// A file may be replaced only when it is of the same kind.
void check_target(const fs::path& path, bool overwrite) {
  if (!exists(path, ErrorKind::resource)) return;
  const auto refuse = [&](const char* what, const char* next) {
    throw Error({.kind = ErrorKind::configuration, .what = what, .where = path.string(), .next = next});
  };
  if (!overwrite) refuse("the output exists", "choose another --output, or replace it with --overwrite");
  std::error_code error;
  if (!fs::is_regular_file(path, error)) refuse("the output exists and is no file", "choose another --output");
  const MappedFile file(path, ErrorKind::resource);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  if (!text.starts_with("GGUF"))
    refuse("the output exists and is no GGUF file; it is not replaced", "choose another --output");
}

class GgufWeights final : public WeightSource {
 public:
  GgufWeights(const fs::path& path, const ModelConfig& config) : WeightSource(config), file_(path) {
    for (const ParameterInfo& parameter : layout().parameters()) {
      const GgufEntry& entry = file_.tensor(gguf_name(parameter));
      if (entry.shape != huggingface_shape(parameter))
        throw Error({.kind = ErrorKind::checkpoint,
                     .what = "a tensor has another shape",
                     .where = fmt::format("{}: tensor {}", path.string(), gguf_name(parameter)),
                     .seen = to_string(entry.shape),
                     .allowed = to_string(huggingface_shape(parameter)),
                     .next = "the file holds another model: export it again"});
    }
  }

  void read_rows(size_t parameter, int64_t first, const Tensor& into) override {
    const ParameterInfo& parameter_info = info(parameter);
    const GgufEntry& entry = file_.tensor(gguf_name(parameter_info));
    const int64_t head_dim = interleaved_head(config(), parameter_info);
    std::vector<float> values(static_cast<size_t>(into.cols));
    for (int64_t i = 0; i < into.rows; ++i) {
      const int64_t row = first + i;
      file_.read_row(entry, head_dim > 0 ? interleaved_row(row, head_dim) : row, values);
      for (int64_t j = 0; j < into.cols; ++j)
        if (into.dtype == DType::f32) into.row<float>(i)[j] = values[static_cast<size_t>(j)];
        else into.row<bf16>(i)[j] = bf16(values[static_cast<size_t>(j)]);
    }
    file_.release();
  }

 private:
  static int64_t interleaved_row(int64_t row, int64_t head_dim) {
    const int64_t in_head = row % head_dim, half = head_dim / 2;
    return row - in_head + 2 * (in_head % half) + in_head / half;
  }

  GgufFile file_;
};

}  // namespace

std::vector<TensorGroup> gguf_groups(WeightSource& source, const MatrixType& type) {
  const ModelConfig& config = source.config();
  if (config.qk_norm && config.rope_scaling)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "llama.cpp computes no QK-norm together with Llama 3.1's rescaling of RoPE",
                 .next = "export with --format safetensors"});
  std::vector<TensorGroup> groups;
  if (config.rope_scaling) groups.push_back(rope_divisors(config));
  for (size_t i = 0; i < source.parameters(); ++i) {
    const ParameterInfo& info = source.info(i);
    groups.push_back(encode_rows(source, i, gguf_name(info), huggingface_shape(info),
                                 info.kind == ParameterKind::norm ? row_type("F32") : type(info),
                                 interleaved_head(config, info)));
  }
  return groups;
}

GgufMetadata gguf_model_metadata(const ModelConfig& config, const std::string& name, const RowType& type) {
  GgufMetadata metadata = {{"general.architecture", std::string(architecture(config))},
                           {"general.name", name},
                           {"general.file_type", type.file_type}};
  if (type.block > 1) metadata.emplace_back("general.quantization_version", uint32_t{2});
  const auto add = [&](const char* key, auto value) {
    metadata.emplace_back(fmt::format("{}.{}", architecture(config), key), value);
  };
  const auto count = [&](const char* key, int64_t value) { add(key, static_cast<uint32_t>(value)); };
  count("vocab_size", config.vocabulary);
  count("context_length", config.context);
  count("embedding_length", config.width);
  count("block_count", config.layers);
  count("feed_forward_length", config.ffn);
  count("attention.head_count", config.heads);
  count("attention.head_count_kv", config.kv_heads);
  count("attention.key_length", config.head_dim);
  count("attention.value_length", config.head_dim);
  count("rope.dimension_count", config.head_dim);
  add("rope.freq_base", static_cast<float>(config.rope_theta));
  add("attention.layer_norm_rms_epsilon", static_cast<float>(config.norm_epsilon));
  return metadata;
}

GgufResult write_gguf_model(const fs::path& path, GgufMetadata metadata, const std::vector<TensorGroup>& groups,
                            const GgufOptions& options) {
  check_target(path, options.overwrite);
  GgufResult result;
  for (const TensorGroup& group : groups) result.bytes += static_cast<int64_t>(group.bytes());
  const auto reserve = [&](const auto& values) {
    for (const auto& [key, value] : values) metadata.emplace_back(key, std::numeric_limits<double>::quiet_NaN());
  };
  if (options.compare) reserve(result.difference.values());
  if (options.perplexity) reserve(PerplexityChange().values());
  create_folder_of(path);
  AtomicFile file(path);
  write_gguf(file, metadata, groups, options.progress);
  std::map<std::string, double> values;
  const auto note = [&](const auto& measured) { values.insert(measured.begin(), measured.end()); };
  if (options.compare) note((result.difference = options.compare(file.path())).values());
  if (options.perplexity) note((result.perplexity = options.perplexity(file.path()))->values());
  if (!values.empty()) replace_gguf_values(file.path(), values);
  file.commit();
  return result;
}

std::unique_ptr<WeightSource> open_gguf_weights(const fs::path& path, const ModelConfig& config) {
  return std::make_unique<GgufWeights>(path, config);
}

}  // namespace nibble
