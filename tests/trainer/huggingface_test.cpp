#include "trainer/huggingface.hpp"
#include "trainer/huggingface_weights.hpp"

#include <cstring>
#include <functional>
#include <limits>

#include "data/json_fields.hpp"
#include "tensor/files.hpp"
#include "tensor/half.hpp"
#include "tests/tensor/temporary_directory.hpp"
#include "trainer/safetensors.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

fs::path reference(const std::string& name) { return fs::path(NIBBLE_TEST_DATA) / "model" / "data" / "llama" / name; }

json reference_config() {
  return parse_json(read_file(reference("mha") / "config.json", ErrorKind::checkpoint), "config.json",
                    ErrorKind::checkpoint);
}

/// A Llama with grouped heads, small enough for many imports.
ModelConfig tiny(bool tied) {
  return {.vocabulary = 11,
          .width = 8,
          .layers = 2,
          .heads = 4,
          .kv_heads = 2,
          .head_dim = 4,
          .ffn = 12,
          .context = 32,
          .rope_theta = 500000.0,
          .rope_scaling = std::nullopt,
          .norm_epsilon = 1e-6,
          .tied = tied};
}

bool same_weights(const ParameterSet& a, const ParameterSet& b) {
  for (size_t i = 0; i < a.size(); ++i)
    for (int64_t row = 0; row < a[i].rows; ++row)
      if (std::memcmp(a[i].slice_rows(row, 1).data, b[i].slice_rows(row, 1).data, a[i].slice_rows(row, 1).bytes()) != 0)
        return false;
  return true;
}

/// Padded weights whose numbers all differ.
ParameterSet numbered_weights(const ParameterLayout& layout) {
  ParameterSet weights(layout, DType::f32, DType::f32, true, "weights");
  float value = 1;
  for (size_t i = 0; i < weights.size(); ++i)
    for (int64_t row = 0; row < weights[i].rows; ++row)
      for (int64_t col = 0; col < weights[i].cols; ++col) weights[i].row<float>(row)[col] = value += 0.0078125f;
  return weights;
}

class HuggingFaceTest : public TemporaryDirectoryTest {
 protected:
  fs::path folder() const { return directory_ / "model"; }
  /// Exports a tiny model into folder().
  ExportResult export_tiny(bool tied, ExportOptions options = {.dtype = DType::f32}) {
    const ParameterLayout layout(tiny(tied));
    return export_huggingface(folder(), tiny(tied), numbered_weights(layout), options);
  }
  ParameterSet import_tiny(bool tied) { return import_huggingface(folder(), ParameterLayout(tiny(tied)), DType::f32); }
  /// Writes a single file of weights for tiny(tied) after `change` had its way with the tensors.
  void write_weights(bool tied, const std::function<void(std::vector<SafetensorsItem>&)>& change) {
    const ParameterLayout layout(tiny(tied));
    weights_ = numbered_weights(layout);
    std::vector<SafetensorsItem> items;
    for (size_t i = 0; i < weights_.size(); ++i) {
      const ParameterInfo& info = layout.parameters()[i];
      items.push_back({info.name,
                       info.kind == ParameterKind::norm ? std::vector{info.cols} : std::vector{info.rows, info.cols},
                       weights_[i], DType::f32});
    }
    change(items);
    fs::create_directories(folder());
    write_safetensors(folder() / "model.safetensors", items);
  }

  ParameterSet weights_;
};

// config.json --------------------------------------------------------------------------------------------------------

TEST(HuggingFaceConfig, TheReferenceModelsAreRead) {
  const ModelConfig mha = read_huggingface_config(reference("mha"));
  EXPECT_EQ(mha, (ModelConfig{.vocabulary = 256,
                              .width = 64,
                              .layers = 2,
                              .heads = 4,
                              .kv_heads = 4,
                              .head_dim = 16,
                              .ffn = 176,
                              .context = 128,
                              .rope_theta = 10000,
                              .rope_scaling = std::nullopt,
                              .norm_epsilon = 1e-5,
                              .tied = false}));
  const ModelConfig gqa = read_huggingface_config(reference("gqa-tied"));
  EXPECT_EQ(gqa.kv_heads, 2);
  EXPECT_TRUE(gqa.tied);
  EXPECT_EQ(read_huggingface_special_tokens(reference("mha")), (SpecialTokens{.begin = 1, .ends = {2}}));
}

TEST(HuggingFaceConfig, WhatIsWrittenIsReadAgain) {
  ModelConfig config = tiny(true);
  const SpecialTokens tokens{.begin = 3, .ends = {4, 5}};
  for (int i = 0; i < 2; ++i) {
    const json written = huggingface_config(config, "bfloat16", tokens);
    EXPECT_EQ(parse_huggingface_config(written, "config.json"), config);
    EXPECT_EQ(parse_special_tokens(written, "config.json"), tokens);
    EXPECT_EQ(written["rope_theta"], written["rope_parameters"]["rope_theta"]);
    EXPECT_EQ(written["torch_dtype"], "bfloat16");
    EXPECT_EQ(written["dtype"], "bfloat16");
    config.rope_scaling =
        RopeScaling{.factor = 32, .low_frequency_factor = 1, .high_frequency_factor = 4, .original_context = 16};
    config.norm_epsilon = 0;  // what the configuration allows, a checkpoint must give back
  }
  EXPECT_EQ(parse_special_tokens(huggingface_config(config, "float32"), "config.json"), SpecialTokens{});
}

TEST(HuggingFaceConfig, AModelWithQkNormIsAQwen3) {
  const ModelConfig config = read_huggingface_config(reference("qk-norm"));
  EXPECT_TRUE(config.qk_norm);
  EXPECT_EQ(config.head_dim, 12);
  const json written = huggingface_config(config, "bfloat16");
  EXPECT_EQ(written["model_type"], "qwen3");
  EXPECT_EQ(written["architectures"], json({"Qwen3ForCausalLM"}));
  EXPECT_EQ(parse_huggingface_config(written, "config.json"), config);
  EXPECT_EQ(huggingface_config(tiny(false), "bfloat16")["model_type"], "llama");
  // Qwen3Config's defaults are other ones than LlamaConfig's.
  for (const char* key : {"num_key_value_heads", "head_dim", "max_position_embeddings"}) {
    json without = written;
    without.erase(key);
    EXPECT_NE(error_of([&] { parse_huggingface_config(without, "c"); }).where.find(key), std::string::npos);
  }
  json windows = written;
  windows["layer_types"] = {"full_attention", "full_attention"};
  EXPECT_EQ(parse_huggingface_config(windows, "config.json"), config);
  windows["layer_types"] = {"full_attention", "sliding_attention"};
  EXPECT_NE(error_of([&] { parse_huggingface_config(windows, "c"); }).where.find("layer_types"), std::string::npos);
  json mixed = written;
  mixed["architectures"] = {"LlamaForCausalLM"};
  EXPECT_NE(error_of([&] { parse_huggingface_config(mixed, "c"); }).where.find("architectures"), std::string::npos);
}

TEST(HuggingFaceConfig, EitherGenerationOfKeysIsEnough) {
  ModelConfig config = tiny(false);
  config.rope_scaling = RopeScaling{};
  const json both = huggingface_config(config, "float32");
  json old_keys = both, new_keys = both;
  old_keys.erase("rope_parameters");
  new_keys.erase("rope_theta");
  new_keys.erase("rope_scaling");
  EXPECT_EQ(parse_huggingface_config(old_keys, "config.json"), config);
  EXPECT_EQ(parse_huggingface_config(new_keys, "config.json"), config);
  old_keys["rope_scaling"]["type"] = "llama3";  // the name before rope_type
  old_keys["rope_scaling"].erase("rope_type");
  EXPECT_EQ(parse_huggingface_config(old_keys, "config.json"), config);
}

TEST(HuggingFaceConfig, MissingKeysMeanWhatTheyMeanToTransformers) {
  json config = reference_config();
  for (const char* key : {"num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta",
                          "tie_word_embeddings", "hidden_act", "attention_bias", "mlp_bias"})
    config.erase(key);
  const ModelConfig parsed = parse_huggingface_config(config, "config.json");
  EXPECT_EQ(parsed.kv_heads, 4);
  EXPECT_EQ(parsed.head_dim, 16);
  EXPECT_EQ(parsed.context, 2048);
  EXPECT_EQ(parsed.norm_epsilon, 1e-6);
  EXPECT_EQ(parsed.rope_theta, 10000);
  EXPECT_FALSE(parsed.tied);
}

TEST(HuggingFaceConfig, WhatIsNotComputedIsRefusedWithItsKey) {
  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  json inverted = llama3, partial = llama3;
  inverted["low_freq_factor"] = 5.0;
  partial.erase("factor");
  const std::pair<const char*, json> cases[] = {
      {"model_type", "mistral"},
      {"model_type", 3},
      {"architectures", {"LlamaForSequenceClassification"}},
      {"attention_bias", true},
      {"attention_bias", "no"},
      {"mlp_bias", true},
      {"hidden_act", "gelu"},
      {"sliding_window", 4096},
      {"quantization_config", {{"quant_method", "gptq"}}},
      {"attention_dropout", 0.1},
      {"partial_rotary_factor", 0.5},
      {"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}},
      {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 2.0}}},
      {"rope_scaling", inverted},
      {"rope_scaling", partial},
      {"rope_parameters", {{"rope_type", "dynamic"}, {"rope_theta", 10000.0}}},
      {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 500000.0}}},  // contradicts rope_theta
      {"rope_theta", -1},
      {"rope_theta", "10000"},
      {"rms_norm_eps", -1e-5},
      {"vocab_size", 0},
      {"vocab_size", nullptr},
      {"hidden_size", -64},
      {"hidden_size", 64.5},
      {"hidden_size", uint64_t{1} << 63},
      {"num_hidden_layers", 0},
      {"num_attention_heads", 1 << 20},
      {"head_dim", 15},
      {"num_key_value_heads", 3},
      {"intermediate_size", 0},
      {"max_position_embeddings", 0},
  };
  for (const auto& [key, value] : cases) {
    json config = reference_config();
    config[key] = value;
    const ErrorDetail error = error_of([&] { parse_huggingface_config(config, "config.json"); });
    EXPECT_EQ(error.kind, ErrorKind::checkpoint) << key << " " << value;
    EXPECT_FALSE(error.where.empty()) << key << " " << value;
    // ModelConfig::validate has its own names for these two.
    const std::string named = std::string(key) == "num_key_value_heads" ? "kv_heads" : key;
    EXPECT_NE(error.where.find(named), std::string::npos) << error.where;
  }
  json both = reference_config();
  both["rope_scaling"] = llama3;
  both["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 10000.0}};
  EXPECT_EQ(error_of([&] { parse_huggingface_config(both, "c"); }).what,
            "the old key and the new one contradict each other");
  json nameless = reference_config();
  nameless.erase("model_type");
  EXPECT_EQ(parse_huggingface_config(nameless, "config.json").width, 64);
  nameless.erase("architectures");
  EXPECT_NE(error_of([&] { parse_huggingface_config(nameless, "c"); }).where.find("model_type"), std::string::npos);
  json indivisible = reference_config();
  indivisible.erase("head_dim");
  indivisible["hidden_size"] = 66;
  EXPECT_NE(error_of([&] { parse_huggingface_config(indivisible, "c"); }).where.find("hidden_size"), std::string::npos);
}

TEST(HuggingFaceConfig, SpecialTokensLieInTheVocabulary) {
  json config = reference_config();
  config["bos_token_id"] = -1;
  config["eos_token_id"] = {7, 255};
  EXPECT_EQ(parse_special_tokens(config, "c"), (SpecialTokens{.begin = std::nullopt, .ends = {7, 255}}));
  config["eos_token_id"] = {7, 256};
  EXPECT_NE(error_of([&] { parse_special_tokens(config, "c"); }).where.find("eos_token_id"), std::string::npos);
  config["eos_token_id"] = nullptr;
  config["bos_token_id"] = 256;
  EXPECT_NE(error_of([&] { parse_special_tokens(config, "c"); }).where.find("bos_token_id"), std::string::npos);
}

TEST_F(HuggingFaceTest, DamagedConfigurationsAreRefused) {
  EXPECT_EQ(error_of([&] { read_huggingface_config(directory_); }).kind, ErrorKind::checkpoint);
  for (const char* text : {"", "{", "[]", "null", "{\"vocab_size\": 1, \"vocab_size\": 2}", "\xff\xfe"}) {
    write(directory_ / "config.json", text);
    EXPECT_EQ(error_of([&] { read_huggingface_config(directory_); }).kind, ErrorKind::checkpoint) << text;
  }
}

// Weights ------------------------------------------------------------------------------------------------------------

TEST_F(HuggingFaceTest, TheReferenceWeightsGoThroughUnchanged) {
  for (const char* name : {"mha", "gqa-tied", "qk-norm"}) {
    const ModelConfig config = read_huggingface_config(reference(name));
    const ParameterLayout layout(config);
    const ParameterSet weights = import_huggingface(reference(name), layout, DType::f32);
    export_huggingface(directory_ / name, config, weights, {.dtype = DType::f32});
    EXPECT_EQ(read_huggingface_config(directory_ / name), config);
    const SafetensorsFile before(reference(name) / "model.safetensors"), after(directory_ / name / "model.safetensors");
    ASSERT_EQ(after.entries().size(), before.entries().size());
    for (const auto& [tensor, entry] : before.entries()) {
      EXPECT_EQ(after.entry(tensor).shape, entry.shape) << tensor;
      EXPECT_TRUE(std::ranges::equal(after.bytes(tensor), before.bytes(tensor))) << tensor;
    }
  }
}

TEST_F(HuggingFaceTest, AnExportComesBack) {
  for (const bool tied : {false, true}) {
    const ExportResult result = export_tiny(tied, {.dtype = DType::f32, .overwrite = true});
    EXPECT_EQ(result.files, 1);
    EXPECT_EQ(result.bytes, tiny(tied).parameters() * 4);
    EXPECT_EQ(read_huggingface_config(folder()), tiny(tied));
    EXPECT_EQ(names_in(folder()),
              (std::vector<std::string>{"config.json", "generation_config.json", "model.safetensors"}));
    EXPECT_TRUE(same_weights(import_tiny(tied), numbered_weights(ParameterLayout(tiny(tied)))));
  }
}

TEST_F(HuggingFaceTest, Bf16IsTheRoundedWeights) {
  export_tiny(false, {.dtype = DType::bf16});
  const ParameterLayout layout(tiny(false));
  const ParameterSet expected = numbered_weights(layout), found = import_tiny(false);
  for (size_t i = 0; i < found.size(); ++i)
    for (int64_t row = 0; row < found[i].rows; ++row)
      for (int64_t col = 0; col < found[i].cols; ++col)
        ASSERT_EQ(found[i].row<float>(row)[col], static_cast<float>(bf16(expected[i].row<float>(row)[col])));
  const ParameterSet narrow = import_huggingface(folder(), layout, DType::bf16);
  EXPECT_EQ(narrow[0].row<bf16>(2)[3], bf16(expected[0].row<float>(2)[3]));
}

TEST_F(HuggingFaceTest, ShardsKeepTheirLimitAndComeBack) {
  const ExportResult result = export_tiny(false, {.dtype = DType::f32, .shard_bytes = 1500});
  EXPECT_GT(result.files, 2);
  int64_t files = 0, tensors = 0, bytes = 0;
  for (const std::string& name : names_in(folder())) {
    if (!name.ends_with(".safetensors")) continue;
    const SafetensorsFile file(folder() / name);
    int64_t size = 0;
    for (const auto& [tensor, entry] : file.entries()) size += static_cast<int64_t>(entry.end - entry.begin);
    EXPECT_LE(size, 1500) << name;
    bytes += size;
    tensors += static_cast<int64_t>(file.entries().size());
    ++files;
  }
  EXPECT_EQ(files, result.files);
  const json index = json::parse(read_file(folder() / "model.safetensors.index.json", ErrorKind::data));
  EXPECT_EQ(index["metadata"]["total_size"], bytes);
  EXPECT_EQ(index["weight_map"].size(), static_cast<size_t>(tensors));
  EXPECT_EQ(bytes, tiny(false).parameters() * 4);
  EXPECT_TRUE(same_weights(import_tiny(false), numbered_weights(ParameterLayout(tiny(false)))));
}

TEST_F(HuggingFaceTest, HostileIndexesAreRefused) {
  export_tiny(false, {.dtype = DType::f32, .shard_bytes = 1500});
  const fs::path path = folder() / "model.safetensors.index.json";
  const json index = json::parse(read_file(path, ErrorKind::data));
  const std::string embedding = "model.embed_tokens.weight", first = index["weight_map"][embedding];
  const auto refusal = [&](json changed) {
    write(path, changed.dump());
    return error_of([&] { import_tiny(false); });
  };
  for (const char* name : {"../x.safetensors", "/etc/passwd", "model.bin"}) {
    json changed = index;
    changed["weight_map"][embedding] = name;
    EXPECT_EQ(refusal(changed).what, "a shard's name cannot be") << name;
  }
  json changed = index;
  changed["weight_map"][embedding] = 3;
  EXPECT_EQ(refusal(changed).what, "a field is of another type");
  changed["weight_map"][embedding] = "model-00009-of-00009.safetensors";
  EXPECT_EQ(refusal(changed).what, "shards of the weights are missing");
  changed["weight_map"][embedding] = index["weight_map"]["lm_head.weight"];
  EXPECT_EQ(refusal(changed).what, "the index and a shard disagree: the shard does not hold the tensor");
  changed["weight_map"].erase(embedding);
  changed["weight_map"][index["weight_map"].begin().key()] = index["weight_map"].begin().value();
  EXPECT_EQ(refusal(changed).kind, ErrorKind::checkpoint);
  changed = index;
  changed["weight_map"].erase("model.norm.weight");
  EXPECT_EQ(refusal(changed).what, "the index and a shard disagree: the index does not place the tensor there");
  EXPECT_EQ(refusal(json::object()).what, "a field is missing");
  EXPECT_EQ(refusal(json::array()).what, "expected a JSON object");
}

TEST_F(HuggingFaceTest, MissingUnexpectedAndMisshapedTensorsAreNamed) {
  std::vector<float> numbers(200);
  write_weights(false, [&](std::vector<SafetensorsItem>& items) {
    std::erase_if(items, [](const SafetensorsItem& item) { return item.name == "model.layers.1.mlp.up_proj.weight"; });
    items.push_back({"model.layers.2.extra", {3}, Tensor(numbers.data(), 1, 3), DType::f32});
    items.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {2}, Tensor(numbers.data(), 1, 2), DType::f32});
    for (SafetensorsItem& item : items)
      if (item.name == "model.norm.weight") item = {item.name, {1, 8}, Tensor(numbers.data(), 1, 8), DType::f32};
  });
  const ErrorDetail error = error_of([&] { import_tiny(false); });
  EXPECT_EQ(error.kind, ErrorKind::checkpoint);
  EXPECT_EQ(error.seen,
            "missing: model.layers.1.mlp.up_proj.weight; unexpected: model.layers.2.extra; "
            "of another shape: model.norm.weight [1, 8] instead of [8]");
}

TEST_F(HuggingFaceTest, ManyNamesAreCounted) {
  write_weights(false, [&](std::vector<SafetensorsItem>& items) { items.resize(3); });
  EXPECT_NE(error_of([&] { import_tiny(false); }).seen.find(" more"), std::string::npos);
}

TEST_F(HuggingFaceTest, ATiedHeadMayStandInTheFileIfItIsTheEmbedding) {
  OwnedTensor head(DType::f32, 11, 8);
  const auto add_head = [&](std::vector<SafetensorsItem>& items) {
    std::memcpy(head.view().data, numbered_weights(ParameterLayout(tiny(true)))[0].data, head.view().bytes());
    for (int64_t i = 0; i < 11; ++i)
      std::memcpy(head.view().row<float>(i), weights_[0].row<float>(i), 8 * sizeof(float));
    items.push_back({"lm_head.weight", {11, 8}, head, DType::f32});
  };
  write_weights(true, add_head);
  EXPECT_TRUE(same_weights(import_tiny(true), weights_));
  write_weights(true, [&](std::vector<SafetensorsItem>& items) {
    add_head(items);
    head.view().row<float>(10)[7] += 1;
  });
  EXPECT_NE(error_of([&] { import_tiny(true); }).where.find("lm_head.weight"), std::string::npos);
  write_weights(true, [](std::vector<SafetensorsItem>&) {});
  EXPECT_NE(error_of([&] { import_tiny(false); }).seen.find("missing: lm_head.weight"), std::string::npos);
}

TEST_F(HuggingFaceTest, WeightsThatAreNoNumbersAreRefused) {
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    write_weights(false, [&](std::vector<SafetensorsItem>& items) { items[4].tensor.row<float>(1)[2] = value; });
    const ErrorDetail error = error_of([&] { import_tiny(false); });
    EXPECT_EQ(error.what, "a weight is infinite or not a number");
    EXPECT_NE(error.where.find(ParameterLayout(tiny(false)).parameters()[4].name), std::string::npos);
  }
}

TEST_F(HuggingFaceTest, AFolderWithoutWeightsIsRefused) {
  fs::create_directories(folder());
  EXPECT_EQ(error_of([&] { import_tiny(false); }).what, "the folder holds no weights");
  write(folder() / "pytorch_model.bin", "x");
  EXPECT_NE(error_of([&] { import_tiny(false); }).next.find("safetensors"), std::string::npos);
}

TEST_F(HuggingFaceTest, AFlippedBitInTheHeaderIsRefusedOrChangesNothing) {
  export_tiny(false);
  const ParameterSet expected = numbered_weights(ParameterLayout(tiny(false)));
  const fs::path path = folder() / "model.safetensors";
  const std::string original = read_file(path, ErrorKind::data);
  uint64_t header;
  std::memcpy(&header, original.data(), sizeof header);
  int refused = 0;
  for (size_t i = 0; i < sizeof header + header; ++i) {
    set_byte(path, i, static_cast<char>(original[i] ^ (1 << (i % 8))));
    try {
      EXPECT_TRUE(same_weights(import_tiny(false), expected)) << "byte " << i;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::checkpoint) << "byte " << i;
      ++refused;
    }
    set_byte(path, i, original[i]);
  }
  EXPECT_GT(refused, static_cast<int>(header) * 9 / 10);
}

TEST_F(HuggingFaceTest, MissingShardsAreListed) {
  export_tiny(false, {.dtype = DType::f32, .shard_bytes = 1500});
  std::vector<std::string> shards = names_in(folder());
  std::erase_if(shards, [](const std::string& name) { return !name.ends_with(".safetensors"); });
  ASSERT_GE(shards.size(), 3u);
  fs::remove(folder() / shards[0]);
  fs::remove(folder() / shards[2]);
  const ErrorDetail error = error_of([&] { import_tiny(false); });
  EXPECT_EQ(error.kind, ErrorKind::checkpoint);
  EXPECT_EQ(error.what, "shards of the weights are missing");
  EXPECT_NE(error.seen.find("2 of"), std::string::npos) << error.seen;
  EXPECT_NE(error.seen.find(shards[0]), std::string::npos) << error.seen;
  EXPECT_NE(error.seen.find(shards[2]), std::string::npos) << error.seen;
}

TEST_F(HuggingFaceTest, WhatReadingBackFindsStandsInEveryFile) {
  const ModelConfig config = tiny(false);
  const ParameterLayout layout(config);
  const ParameterSet weights = numbered_weights(layout);
  const std::unique_ptr<WeightSource> source = held_weights(config, weights);
  FolderOptions options{.dtype = "float16", .shard_bytes = 1500};
  options.compare = [&](const fs::path& written) {
    EXPECT_FALSE(fs::exists(folder()));
    EXPECT_EQ(read_huggingface_config(written), config);
    open_huggingface_weights(written, config);
    return LogitDifference{.largest = 0.5, .rms = 1.0 / 3, .divergence = 1e-12};
  };
  options.quantization = {{"quant_method", "none"}};
  const ExportResult result = write_huggingface(folder(), config, huggingface_groups(*source, row_type("F32")),
                                                {.shard_bytes = 1500, .compare = options.compare});
  EXPECT_EQ(result.difference.rms, 1.0 / 3);
  for (const std::string& name : names_in(folder())) {
    if (!name.ends_with(".safetensors")) continue;
    const std::map<std::string, std::string> metadata = SafetensorsFile(folder() / name).metadata();
    EXPECT_EQ(metadata.at("format"), "pt");
    EXPECT_EQ(metadata.at("nibble.logit_difference.max"), "5.000000e-01");
    EXPECT_EQ(metadata.at("nibble.logit_difference.rms"), "3.333333e-01");
    EXPECT_EQ(metadata.at("nibble.logit_difference.kl"), "1.000000e-12");
  }
  EXPECT_TRUE(same_weights(import_tiny(false), weights));

  options.compare = {};
  options.overwrite = true;
  write_huggingface(folder(), config, huggingface_groups(*source, row_type("F16")), options);
  const json described = json::parse(read_file(folder() / "config.json", ErrorKind::data));
  EXPECT_EQ(described["dtype"], "float16");
  EXPECT_EQ(described["quantization_config"]["quant_method"], "none");
  EXPECT_EQ(import_huggingface(folder(), layout, DType::f32)[0].row<float>(2)[3],
            half_to_float(float_to_half(weights[0].row<float>(2)[3])));
}

// The target folder --------------------------------------------------------------------------------------------------

TEST_F(HuggingFaceTest, AFilledTargetIsReplacedOnlyWhenAskedAndOnlyIfItIsAnExport) {
  fs::create_directories(folder());
  export_tiny(false, {.dtype = DType::f32,
                      .shard_bytes = 1500,
                      .tokenizer_files = {{sentencepiece_file_name, "model bytes"}}});  // empty: used
  EXPECT_EQ(read_file(folder() / "tokenizer.model", ErrorKind::data), "model bytes");
  EXPECT_TRUE(fs::exists(folder() / "tokenizer_config.json"));
  const ErrorDetail refused = error_of([&] { export_tiny(true); });
  EXPECT_EQ(refused.kind, ErrorKind::configuration);
  EXPECT_NE(refused.next.find("--overwrite"), std::string::npos);
  EXPECT_EQ(read_huggingface_config(folder()), tiny(false));

  export_tiny(true, {.dtype = DType::f32, .overwrite = true});
  EXPECT_EQ(names_in(folder()),
            (std::vector<std::string>{"config.json", "generation_config.json", "model.safetensors"}));

  write(folder() / "thesis.tex", "years of work");
  EXPECT_NE(error_of([&] { export_tiny(false, {.overwrite = true}); }).where.find("thesis.tex"), std::string::npos);
  EXPECT_TRUE(fs::exists(folder() / "thesis.tex"));
  EXPECT_EQ(names_in(directory_), std::vector<std::string>{"model"});

  write(directory_ / "file", "");
  const ParameterLayout layout(tiny(true));
  EXPECT_EQ(error_of([&] {
              export_huggingface(directory_ / "file", tiny(true), numbered_weights(layout), {.overwrite = true});
            }).kind,
            ErrorKind::configuration);
}

}  // namespace
}  // namespace nibble
