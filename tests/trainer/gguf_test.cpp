#include "trainer/gguf_model.hpp"

#include <cstring>
#include <functional>
#include <limits>

#include "tensor/half.hpp"
#include "tests/data/byte_level_file.hpp"
#include "tests/tensor/temporary_directory.hpp"
#include "trainer/gguf_tokenizer.hpp"
#include "trainer/huggingface_weights.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

fs::path data(const std::string& name) { return fs::path(NIBBLE_TEST_DATA) / name; }

/// The model of data/small.gguf.
ModelConfig small() {
  return {.vocabulary = 11,
          .width = 8,
          .layers = 1,
          .heads = 2,
          .kv_heads = 1,
          .head_dim = 4,
          .ffn = 12,
          .context = 32,
          .rope_theta = 500000.0,
          .rope_scaling = RopeScaling{},
          .norm_epsilon = 1e-6};
}

ParameterSet numbered_weights(const ParameterLayout& layout) {
  ParameterSet weights(layout, DType::f32, DType::f32, true, "weights");
  float value = 1;
  for (size_t i = 0; i < weights.size(); ++i)
    for (int64_t row = 0; row < weights[i].rows; ++row)
      for (int64_t col = 0; col < weights[i].cols; ++col) weights[i].row<float>(row)[col] = value += 0.0077f;
  return weights;
}

/// Types as data/small.gguf has them.
const RowType& mixed(const ParameterInfo& info) {
  return row_type(info.kind == ParameterKind::embedding ? "F32" : info.kind == ParameterKind::head ? "BF16" : "F16");
}
const RowType& exact(const ParameterInfo&) { return row_type("F32"); }

class Gguf : public TemporaryDirectoryTest {
 protected:
  fs::path path() const { return directory_ / "model.gguf"; }
  GgufResult write_model(const ModelConfig& config, const MatrixType& type, GgufOptions options = {}) {
    const ParameterLayout layout(config);
    const ParameterSet weights = numbered_weights(layout);
    const std::unique_ptr<WeightSource> source = held_weights(config, weights);
    GgufMetadata metadata = gguf_model_metadata(config, "small", type(layout.parameters()[1]));
    for (auto& entry : gguf_tokenizer(nullptr, config.vocabulary, {})) metadata.push_back(entry);
    return write_gguf_model(path(), metadata, gguf_groups(*source, type), options);
  }
};

TEST_F(Gguf, AFileHasTheBytesThatTheGgufPackageWrites) {
  const LogitDifference difference{.largest = 0.25, .rms = 0.125, .divergence = 1e-7};
  ModelConfig config = small();
  const ParameterLayout layout(config);
  const ParameterSet weights = numbered_weights(layout);
  const std::unique_ptr<WeightSource> source = held_weights(config, weights);
  GgufMetadata metadata = gguf_model_metadata(config, "small", row_type("F16"));
  for (auto& entry : gguf_tokenizer(nullptr, config.vocabulary, {})) metadata.push_back(entry);
  const GgufResult result =
      write_gguf_model(path(), metadata, gguf_groups(*source, mixed), {.compare = [&](const fs::path& file) {
                         EXPECT_NE(file, path());  // it has no name yet
                         EXPECT_EQ(GgufFile(file).tensors().size(), layout.parameters().size() + 1);
                         return difference;
                       }});
  EXPECT_EQ(result.difference.largest, 0.25);
  const std::string expected = read_file(data("trainer/data/small.gguf"), ErrorKind::data);
  const std::string written = read_file(path(), ErrorKind::data);
  ASSERT_EQ(written.size(), expected.size());
  const auto differs = std::mismatch(written.begin(), written.end(), expected.begin());
  EXPECT_EQ(differs.first - written.begin(), std::ssize(written)) << "the first byte that differs";
  EXPECT_EQ(names_in(directory_), std::vector<std::string>{"model.gguf"});
}

TEST_F(Gguf, RowsOfQueriesAndKeysComeBackInTheirOrder) {
  for (const bool qk_norm : {false, true}) {
    ModelConfig config = small();
    config.layers = 2;
    config.qk_norm = qk_norm;
    if (qk_norm) config.rope_scaling.reset();
    write_model(config, exact, {.overwrite = true});
    const GgufFile file(path());
    EXPECT_EQ(std::get<std::string>(file.metadata().at("general.architecture")), qk_norm ? "qwen3" : "llama");
    EXPECT_EQ(file.tensors().contains("blk.1.attn_q_norm.weight"), qk_norm);
    const ParameterLayout layout(config);
    const ParameterSet weights = numbered_weights(layout);
    const std::unique_ptr<WeightSource> back = open_gguf_weights(path(), config);
    for (size_t i = 0; i < back->parameters(); ++i) {
      const ParameterInfo& info = back->info(i);
      for (int64_t row = 0; row < info.rows; ++row) {
        const OwnedTensor read(DType::f32, 1, info.cols);
        back->read_rows(i, row, read);
        EXPECT_TRUE(
            std::equal(read.view().as<float>(), read.view().as<float>() + info.cols, weights[i].row<float>(row)))
            << info.name << " row " << row;
      }
    }
    // A head of four channels: llama's rows are those of channels 0, 2, 1, 3, which rotate in pairs; qwen3's are not.
    std::vector<float> second(8);
    file.read_row(file.tensor("blk.0.attn_q.weight"), 1, second);
    EXPECT_EQ(second[0], weights[2].row<float>(qk_norm ? 1 : 2)[0]);
  }
}

TEST_F(Gguf, HeadsStayWholeWhereAMatrixIsReadInSeveralPieces) {
  ModelConfig config = small();
  config.width = 1000;
  config.heads = 24;
  config.head_dim = 48;
  config.rope_scaling.reset();
  ASSERT_GT(config.query_width(), rows_at_once(config.width));
  ASSERT_NE(rows_at_once(config.width) % config.head_dim, 0);
  write_model(config, exact);
  const ParameterLayout layout(config);
  const ParameterSet weights = numbered_weights(layout);
  const std::unique_ptr<WeightSource> back = open_gguf_weights(path(), config);
  const OwnedTensor read(DType::f32, config.query_width(), config.width);
  back->read(2, read);
  for (int64_t row = 0; row < config.query_width(); ++row)
    ASSERT_TRUE(
        std::equal(weights[2].row<float>(row), weights[2].row<float>(row) + config.width, read.view().row<float>(row)))
        << row;
  // By the definition: of a head's channels, n and n + hd/2 lie next to each other.
  const GgufFile file(path());
  std::vector<float> row(1000);
  for (const int64_t head : {int64_t{0}, int64_t{22}, int64_t{23}})
    for (const int64_t channel : {int64_t{0}, int64_t{5}, int64_t{23}})
      for (const int64_t half : {int64_t{0}, int64_t{1}}) {
        file.read_row(file.tensor("blk.0.attn_q.weight"), head * 48 + 2 * channel + half, row);
        EXPECT_EQ(row[7], weights[2].row<float>(head * 48 + half * 24 + channel)[7]);
      }
}

TEST_F(Gguf, WhatLlamaCppDoesNotComputeIsRefused) {
  ModelConfig config = small();
  config.qk_norm = true;
  EXPECT_EQ(error_of([&] { write_model(config, exact); }).kind, ErrorKind::configuration);
  EXPECT_TRUE(names_in(directory_).empty());
}

TEST_F(Gguf, AWeightThatF16CannotHoldIsRefused) {
  const ModelConfig config = small();
  const ParameterLayout layout(config);
  for (const float value : {65504.0f, 65519.0f, -65520.0f}) {
    ParameterSet weights = numbered_weights(layout);
    weights[2].row<float>(5)[3] = value;
    const std::unique_ptr<WeightSource> source = held_weights(config, weights);
    const auto write_it = [&] {
      write_gguf_model(path(), gguf_model_metadata(config, "large", row_type("F16")), gguf_groups(*source, mixed),
                       {.overwrite = true});
    };
    if (value > 0) {
      write_it();
      continue;
    }
    const ErrorDetail error = error_of(write_it);
    EXPECT_EQ(error.kind, ErrorKind::numerics);
    EXPECT_NE(error.where.find("q_proj.weight, row 5"), std::string::npos) << error.where;
  }
}

TEST_F(Gguf, OnlyAGgufFileIsReplacedAndOnlyWhenAsked) {
  write_model(small(), exact);
  const ErrorDetail refused = error_of([&] { write_model(small(), exact); });
  EXPECT_EQ(refused.kind, ErrorKind::configuration);
  EXPECT_NE(refused.next.find("--overwrite"), std::string::npos);
  write_model(small(), mixed, {.overwrite = true});
  write(path(), "years of work");
  EXPECT_EQ(error_of([&] { write_model(small(), exact, {.overwrite = true}); }).kind, ErrorKind::configuration);
  EXPECT_EQ(read_file(path(), ErrorKind::data), "years of work");
}

TEST_F(Gguf, AComparisonThatFailsLeavesNothing) {
  EXPECT_EQ(error_of([&] {
              write_model(small(), exact, {.compare = [](const fs::path&) -> LogitDifference {
                            throw Error({.kind = ErrorKind::checkpoint, .what = "unlike"});
                          }});
            }).what,
            "unlike");
  EXPECT_TRUE(names_in(directory_).empty());
}

TEST_F(Gguf, AFileCutAnywhereOrOfAnotherModelIsRefused) {
  const std::string whole = read_file(data("trainer/data/small.gguf"), ErrorKind::data);
  for (size_t size = 1; size < whole.size(); size += size < 1400 ? 1 : 61) {
    write(path(), whole.substr(0, size));
    EXPECT_EQ(error_of([&] { GgufFile file(path()); }).kind, ErrorKind::checkpoint) << size;
  }
  // Any byte of the header may lie; it is refused, or names another number that is sound.
  for (size_t i = 0; i < 1400; ++i) {
    std::string flipped = whole;
    flipped[i] = static_cast<char>(flipped[i] ^ (1 << (i % 8)));
    write(path(), flipped);
    try {
      open_gguf_weights(path(), small());
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::checkpoint) << i;
    }
  }
  write(path(), whole);
  ModelConfig other = small();
  other.ffn = 16;
  EXPECT_EQ(error_of([&] { open_gguf_weights(path(), other); }).what, "a tensor has another shape");
  other = small();
  other.layers = 2;
  EXPECT_EQ(error_of([&] { open_gguf_weights(path(), other); }).what, "a tensor is missing");
}

// Tokenizers ---------------------------------------------------------------------------------------------------------

const GgufValue& value_of(const GgufMetadata& metadata, const std::string& key) {
  const auto found = std::ranges::find(metadata, key, [](const auto& entry) { return entry.first; });
  if (found == metadata.end()) throw std::out_of_range(key);
  return found->second;
}

TEST(GgufTokenizer, BytesAreByteTokensButTheSpace) {
  const std::unique_ptr<Tokenizer> tokenizer = make_byte_tokenizer();
  const GgufMetadata metadata = gguf_tokenizer(tokenizer.get(), 264, {.begin = 256, .ends = {257}});
  const auto& tokens = std::get<std::vector<std::string>>(value_of(metadata, "tokenizer.ggml.tokens"));
  const auto& types = std::get<std::vector<int32_t>>(value_of(metadata, "tokenizer.ggml.token_type"));
  ASSERT_EQ(tokens.size(), 264u);
  ASSERT_EQ(types.size(), 264u);
  EXPECT_EQ(tokens[0x41], "<0x41>");
  EXPECT_EQ(tokens[0xff], "<0xFF>");
  EXPECT_EQ(types[0x41], 6);
  EXPECT_EQ(tokens[' '], "\u2581");
  EXPECT_EQ(types[' '], 1);
  for (size_t id = 256; id < 259; ++id) EXPECT_EQ(types[id], 3);
  for (size_t id = 259; id < 264; ++id) EXPECT_EQ(types[id], 5);
  EXPECT_EQ(std::get<uint32_t>(value_of(metadata, "tokenizer.ggml.bos_token_id")), 256u);
  EXPECT_EQ(std::get<uint32_t>(value_of(metadata, "tokenizer.ggml.eos_token_id")), 257u);
  EXPECT_FALSE(std::get<bool>(value_of(metadata, "tokenizer.ggml.add_space_prefix")));
  EXPECT_EQ(std::get<std::string>(value_of(metadata, "tokenizer.ggml.model")), "llama");
  EXPECT_EQ(error_of([&] { gguf_tokenizer(tokenizer.get(), 258, {}); }).kind, ErrorKind::configuration);
}

TEST(GgufTokenizer, PiecesScoresAndTypesAreTheModels) {
  const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(data("data/data/small.model").string());
  const GgufMetadata metadata = gguf_tokenizer(tokenizer.get(), tokenizer->vocabulary(), {});
  const auto& tokens = std::get<std::vector<std::string>>(value_of(metadata, "tokenizer.ggml.tokens"));
  const auto& types = std::get<std::vector<int32_t>>(value_of(metadata, "tokenizer.ggml.token_type"));
  const auto& scores = std::get<std::vector<float>>(value_of(metadata, "tokenizer.ggml.scores"));
  ASSERT_EQ(std::ssize(tokens), tokenizer->vocabulary());
  EXPECT_EQ(tokens[0], "<unk>");
  EXPECT_EQ(types[0], 2);
  EXPECT_EQ(types[1], 3);
  EXPECT_EQ(tokens[3], "<0x00>");
  EXPECT_EQ(types[3], 6);
  // Behind the special pieces and the bytes come merges, the first of them the best.
  for (size_t id = 259; id + 1 < 300; ++id) {
    EXPECT_EQ(types[id], 1);
    EXPECT_EQ(scores[id], -static_cast<float>(id - 259));
  }
  EXPECT_EQ(std::get<uint32_t>(value_of(metadata, "tokenizer.ggml.unknown_token_id")), 0u);
  EXPECT_EQ(std::get<uint32_t>(value_of(metadata, "tokenizer.ggml.bos_token_id")), 1u);
  EXPECT_TRUE(std::get<bool>(value_of(metadata, "tokenizer.ggml.add_space_prefix")));
}

TEST(GgufTokenizer, ByteLevelTokensMergesAndKindsAreTheFiles) {
  const auto metadata_of = [](const std::string& variant) {
    const auto tokenizer = test::make_byte_level(test::byte_level_variant(variant));
    return gguf_tokenizer(tokenizer.get(), tokenizer->vocabulary() + 2, {});
  };
  const nlohmann::json file = test::byte_level_json();
  const GgufMetadata metadata = metadata_of("llama3");
  EXPECT_EQ(std::get<std::string>(value_of(metadata, "tokenizer.ggml.model")), "gpt2");
  EXPECT_EQ(std::get<std::string>(value_of(metadata, "tokenizer.ggml.pre")), "llama-bpe");
  const auto& tokens = std::get<std::vector<std::string>>(value_of(metadata, "tokenizer.ggml.tokens"));
  const auto& types = std::get<std::vector<int32_t>>(value_of(metadata, "tokenizer.ggml.token_type"));
  for (const auto& [token, id] : file["model"]["vocab"].items()) EXPECT_EQ(tokens[id.get<size_t>()], token);
  for (const auto& added : file["added_tokens"])
    EXPECT_EQ(types[added["id"].get<size_t>()], added["special"].get<bool>() ? 3 : 4);
  EXPECT_EQ(types[0], 1);
  EXPECT_EQ(types.back(), 5);
  const auto& merges = std::get<std::vector<std::string>>(value_of(metadata, "tokenizer.ggml.merges"));
  ASSERT_EQ(merges.size(), file["model"]["merges"].size());
  const nlohmann::json& last = file["model"]["merges"].back();
  EXPECT_EQ(merges.back(), last[0].get<std::string>() + " " + last[1].get<std::string>());
  EXPECT_EQ(std::get<std::string>(value_of(metadata_of("gpt2"), "tokenizer.ggml.pre")), "gpt-2");
  EXPECT_EQ(std::get<std::string>(value_of(metadata_of("qwen2"), "tokenizer.ggml.pre")), "qwen2");
  for (const char* other : {"smollm", "o200k"})
    EXPECT_EQ(error_of([&] { metadata_of(other); }).kind, ErrorKind::configuration);
}

/// A SentencePiece model that tokenizes as `change` says.
class ChangedModel final : public Tokenizer {
 public:
  ChangedModel(const Tokenizer& like, std::string model) {
    info_ = like.info();
    files_ = {{sentencepiece_file_name, std::move(model)}};
  }
  void encode(std::string_view, std::vector<int32_t>&) const override {}
};

TEST(GgufTokenizer, ModelsThatLlamaCppTokenizesOtherwiseAreRefused) {
  const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(data("data/data/small.model").string());
  const std::string model = tokenizer->files().front().contents;
  // Fields that come again replace those before: trainer_spec.model_type = UNIGRAM, normalizer_spec's character map,
  // and remove_extra_whitespaces.
  const std::string changes[] = {std::string("\x12\x02\x18\x01", 4), std::string("\x1a\x03\x12\x01x", 5),
                                 std::string("\x1a\x02\x20\x01", 4)};
  for (const std::string& change : changes) {
    const ChangedModel changed(*tokenizer, model + change);
    EXPECT_EQ(error_of([&] { gguf_tokenizer(&changed, 900, {}); }).kind, ErrorKind::configuration);
  }
  const ChangedModel same(*tokenizer, model + std::string("\x12\x02\x18\x02", 4));
  EXPECT_FALSE(gguf_tokenizer(&same, 900, {}).empty());
  const ChangedModel cut(*tokenizer, model.substr(0, model.size() - 1));
  EXPECT_EQ(error_of([&] { gguf_tokenizer(&cut, 900, {}); }).kind, ErrorKind::data);
}

}  // namespace
}  // namespace nibble
