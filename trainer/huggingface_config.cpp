#include "trainer/huggingface_config.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "data/json_fields.hpp"
#include "tensor/files.hpp"

namespace nibble {
namespace {

using nlohmann::json;

constexpr const char* other_model = "choose a Llama that needs no such feature";
/// Above any model there is, and small enough that no count of parameters overflows.
constexpr int64_t largest_dimension = 1 << 20;

struct Architecture {
  const char *model_type, *name;
  bool qk_norm;
};
constexpr Architecture architectures[] = {{"llama", "LlamaForCausalLM", false}, {"qwen3", "Qwen3ForCausalLM", true}};

const Architecture& architecture_of(const JsonFields& fields) {
  constexpr const char* allowed = "\"llama\" or \"qwen3\"";
  constexpr const char* next = "choose a Llama model, or a dense Qwen3";
  if (!fields.has("architectures") && !fields.has("model_type"))
    fields.refuse("model_type", "the file does not say what model it describes", allowed, next);
  for (const Architecture& architecture : architectures) {
    if (fields.has("model_type") && fields.text("model_type") != architecture.model_type) continue;
    if (!fields.has("architectures")) return architecture;
    const json& names = fields.array("architectures");
    if (std::ranges::find(names, architecture.name) != names.end()) return architecture;
    if (fields.has("model_type"))
      fields.refuse("architectures", "not a Llama language model", fmt::format("[\"{}\"]", architecture.name), next);
  }
  if (fields.has("model_type")) fields.refuse("model_type", "not a Llama", allowed, next);
  fields.refuse("architectures", "not a Llama language model", "[\"LlamaForCausalLM\"] or [\"Qwen3ForCausalLM\"]",
                next);
}

/// The tensors themselves say how codes and scales lie (packed_matrix.hpp); activations are not quantized.
void check_quantization(const JsonFields& fields, const std::string& where) {
  if (!fields.has("quantization_config")) return;
  const JsonFields config(fields.object("quantization_config"), where + ": quantization_config", ErrorKind::checkpoint);
  static constexpr std::array formats = {"nvfp4-pack-quantized", "mxfp4-pack-quantized", "float-quantized",
                                         "int-quantized"};
  constexpr const char* next = "fetch the model's unquantized version (F32, BF16 or F16)";
  if (!config.has("quant_method") || config.text("quant_method") != "compressed-tensors")
    fields.refuse("quantization_config", "quantized weights of this kind are not read",
                  "\"quant_method\": \"compressed-tensors\"", next);
  if (!config.has("format") || std::ranges::find(formats, config.text("format")) == formats.end())
    config.refuse("format", "quantized weights of this format are not read",
                  fmt::format("{}", fmt::join(formats, ", ")), next);
}

/// What other Llamas have and Nibble does not compute.
void check_options(const JsonFields& fields, const std::string& where) {
  for (const char* key : {"attention_bias", "mlp_bias"})
    if (fields.flag_or(key, false))
      fields.refuse(key, "projections with biases are not computed", "false", other_model);
  if (fields.has("hidden_act") && fields.text("hidden_act") != "silu" && fields.text("hidden_act") != "swish")
    fields.refuse("hidden_act", "another activation than SwiGLU's is not computed", "\"silu\"", other_model);
  if (fields.has("sliding_window") && fields.flag_or("use_sliding_window", true))
    fields.refuse("sliding_window", "attention within a window is not computed", "null", other_model);
  if (fields.has("layer_types"))
    for (const json& type : fields.array("layer_types"))
      if (type != "full_attention")
        fields.refuse("layer_types", "attention within a window is not computed", "\"full_attention\"", other_model);
  check_quantization(fields, where);
  if (fields.has("attention_dropout") && fields.at("attention_dropout") != 0)
    fields.refuse("attention_dropout", "dropout is not computed", "0.0", "set it to 0.0 in config.json");
  if (fields.has("partial_rotary_factor") && fields.at("partial_rotary_factor") != 1)
    fields.refuse("partial_rotary_factor", "RoPE over a part of a head is not computed", "1.0", other_model);
}

/// `rope_type`, or `type` as it was called at first; "default" when neither is there.
std::string rope_type(const JsonFields& rope) {
  if (rope.has("rope_type")) return rope.text("rope_type");
  return rope.has("type") ? rope.text("type") : "default";
}

std::optional<RopeScaling> parse_scaling(const JsonFields& rope) {
  const std::string type = rope_type(rope);
  if (type == "default") return std::nullopt;
  if (type != "llama3")
    rope.refuse(rope.has("rope_type") ? "rope_type" : "type", "this kind of RoPE is not computed",
                "\"default\" or \"llama3\"", other_model);
  RopeScaling scaling{.factor = rope.positive("factor"),
                      .low_frequency_factor = rope.not_negative("low_freq_factor"),
                      .high_frequency_factor = rope.positive("high_freq_factor"),
                      .original_context = rope.integer("original_max_position_embeddings", 1, INT32_MAX)};
  if (scaling.low_frequency_factor >= scaling.high_frequency_factor)
    rope.refuse("low_freq_factor", "the frequency bounds are in the wrong order", "less than high_freq_factor");
  return scaling;
}

void parse_rope(const JsonFields& fields, const std::string& where, ModelConfig& config) {
  config.rope_theta = fields.positive_or("rope_theta", 10000.0);
  if (fields.has("rope_scaling"))
    config.rope_scaling =
        parse_scaling(JsonFields(fields.object("rope_scaling"), where + ": rope_scaling", ErrorKind::checkpoint));
  if (!fields.has("rope_parameters")) return;

  const JsonFields rope(fields.object("rope_parameters"), where + ": rope_parameters", ErrorKind::checkpoint);
  const double theta = rope.positive_or("rope_theta", config.rope_theta);
  const std::optional<RopeScaling> scaling = parse_scaling(rope);
  if (rope.has("partial_rotary_factor") && rope.at("partial_rotary_factor") != 1)
    rope.refuse("partial_rotary_factor", "RoPE over a part of a head is not computed", "1.0", other_model);
  if (fields.has("rope_theta") && theta != config.rope_theta)
    rope.refuse("rope_theta", "the old key and the new one contradict each other",
                fmt::format("{}, as in \"rope_theta\" outside", config.rope_theta), "correct config.json");
  if (fields.has("rope_scaling") && scaling != config.rope_scaling)
    fields.refuse("rope_parameters", "the old key and the new one contradict each other",
                  "the same as in \"rope_scaling\"", "correct config.json");
  config.rope_theta = theta;
  config.rope_scaling = scaling;
}

json read_json(const std::filesystem::path& path) {
  return parse_json(read_file(path, ErrorKind::checkpoint), path.string(), ErrorKind::checkpoint);
}

}  // namespace

ModelConfig parse_huggingface_config(const json& object, const std::string& where) {
  const JsonFields fields(object, where, ErrorKind::checkpoint);
  const Architecture& architecture = architecture_of(fields);
  check_options(fields, where);

  ModelConfig config;
  config.vocabulary = fields.integer("vocab_size", 1, INT32_MAX);
  config.width = fields.integer("hidden_size", 1, largest_dimension);
  config.layers = fields.integer("num_hidden_layers", 1, 1 << 16);
  config.heads = fields.integer("num_attention_heads", 1, 1 << 16);
  // The defaults are those of transformers' LlamaConfig: what a missing key means to every other reader. Qwen3Config
  // has others, and every Qwen3 has the keys.
  const auto llama_default = [&](const char* key, int64_t value, int64_t largest) {
    return architecture.qk_norm ? fields.integer(key, 1, largest) : fields.integer_or(key, value, 1, largest);
  };
  config.kv_heads = llama_default("num_key_value_heads", config.heads, 1 << 16);
  if (!fields.has("head_dim") && config.width % config.heads != 0)
    fields.refuse("hidden_size", "the width does not divide by the heads, and there is no head_dim",
                  fmt::format("a multiple of {}", config.heads));
  config.head_dim = llama_default("head_dim", config.width / config.heads, 1 << 16);
  if (config.heads * config.head_dim > largest_dimension)
    fields.refuse("num_attention_heads", "heads times head_dim cannot be",
                  fmt::format("at most {}", largest_dimension));
  config.ffn = fields.integer("intermediate_size", 1, largest_dimension);
  config.context = llama_default("max_position_embeddings", 2048, INT32_MAX);
  config.norm_epsilon = fields.has("rms_norm_eps") ? fields.not_negative("rms_norm_eps") : 1e-6;
  config.tied = fields.flag_or("tie_word_embeddings", false);
  config.qk_norm = architecture.qk_norm;
  parse_rope(fields, where, config);
  try {
    config.validate();
  } catch (const Error& error) {  // here it is a file that is wrong, not the user's settings
    ErrorDetail detail = error.detail();
    detail.kind = ErrorKind::checkpoint;
    detail.where = detail.where.empty() ? where : where + ": " + detail.where;
    throw Error(detail);
  }
  return config;
}

SpecialTokens parse_special_tokens(const json& object, const std::string& where) {
  const JsonFields fields(object, where, ErrorKind::checkpoint);
  const int64_t last = fields.integer("vocab_size", 1, INT32_MAX) - 1;
  SpecialTokens tokens;
  // -1 is how some files say "none".
  const auto add = [](int64_t id, auto&& store) {
    if (id >= 0) store(id);
  };
  if (fields.has("bos_token_id")) add(fields.integer("bos_token_id", -1, last), [&](int64_t id) { tokens.begin = id; });
  if (!fields.has("eos_token_id")) return tokens;
  if (!fields.at("eos_token_id").is_array()) {
    add(fields.integer("eos_token_id", -1, last), [&](int64_t id) { tokens.ends.push_back(id); });
    return tokens;
  }
  for (const json& id : fields.at("eos_token_id")) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > last)
      fields.refuse("eos_token_id", "a token id cannot be", fmt::format("ids from 0 to {}", last));
    tokens.ends.push_back(id.get<int64_t>());
  }
  return tokens;
}

ModelConfig read_huggingface_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  return parse_huggingface_config(read_json(path), path.string());
}

SpecialTokens read_huggingface_special_tokens(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  return parse_special_tokens(read_json(path), path.string());
}

nlohmann::ordered_json huggingface_config(const ModelConfig& config, const std::string& dtype,
                                          const SpecialTokens& tokens) {
  nlohmann::ordered_json scaling;  // null unless the frequencies are rescaled
  if (config.rope_scaling)
    scaling = {{"rope_type", "llama3"},
               {"factor", config.rope_scaling->factor},
               {"low_freq_factor", config.rope_scaling->low_frequency_factor},
               {"high_freq_factor", config.rope_scaling->high_frequency_factor},
               {"original_max_position_embeddings", config.rope_scaling->original_context}};
  nlohmann::ordered_json rope_parameters = {{"rope_type", "default"}};
  if (config.rope_scaling) rope_parameters = scaling;
  rope_parameters["rope_theta"] = config.rope_theta;

  const Architecture& architecture = architectures[config.qk_norm ? 1 : 0];
  nlohmann::ordered_json object = {{"architectures", {architecture.name}},
                                   {"model_type", architecture.model_type},
                                   {"vocab_size", config.vocabulary},
                                   {"hidden_size", config.width},
                                   {"intermediate_size", config.ffn},
                                   {"num_hidden_layers", config.layers},
                                   {"num_attention_heads", config.heads},
                                   {"num_key_value_heads", config.kv_heads},
                                   {"head_dim", config.head_dim},
                                   {"hidden_act", "silu"},
                                   {"max_position_embeddings", config.context},
                                   {"rms_norm_eps", config.norm_epsilon},
                                   {"rope_theta", config.rope_theta},
                                   {"rope_scaling", scaling},
                                   {"rope_parameters", rope_parameters},
                                   {"attention_bias", false},
                                   {"attention_dropout", 0.0},
                                   {"mlp_bias", false},
                                   {"initializer_range", 0.02},
                                   {"tie_word_embeddings", config.tied},
                                   {"pretraining_tp", 1},
                                   {"use_cache", true},
                                   {"dtype", dtype},
                                   {"torch_dtype", dtype}};
  if (config.qk_norm) {  // Llama knows no windows; the keys would be strange there
    object["use_sliding_window"] = false;
    object["sliding_window"] = nullptr;
  }
  // Explicit nulls: LlamaConfig takes missing ids for 1 and 2.
  object["bos_token_id"] = tokens.begin ? nlohmann::ordered_json(*tokens.begin) : nlohmann::ordered_json();
  object["eos_token_id"] = tokens.ends.empty()       ? nlohmann::ordered_json()
                           : tokens.ends.size() == 1 ? nlohmann::ordered_json(tokens.ends.front())
                                                     : nlohmann::ordered_json(tokens.ends);
  return object;
}

}  // namespace nibble
