// nibble export, eval and generate on a small Hugging Face folder, through the program.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/token_data.hpp"
#include "model/llama.hpp"
#include "quant/recipe.hpp"
#include "run_program.hpp"
#include "tensor/files.hpp"
#include "tests/tensor/temporary_directory.hpp"
#include "trainer/gguf_model.hpp"
#include "trainer/huggingface.hpp"
#include "trainer/huggingface_weights.hpp"
#include "trainer/safetensors.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

class CommandsOnModels : public TemporaryDirectoryTest {
 protected:
  CommandsOnModels() { initialize(stream_, config_, layout_, 5, 0.2, weights_); }
  void SetUp() override {
    TemporaryDirectoryTest::SetUp();
    ExportOptions options;
    options.dtype = DType::f32;
    options.tokens = {.begin = 1, .ends = {2}};
    options.tokenizer_files = make_tokenizer(tokenizer_path_.string())->files();
    export_huggingface(folder(), config_, weights_, options);
  }
  fs::path folder() const { return directory_ / "model"; }
  static std::string quoted(const fs::path& path) { return "'" + path.string() + "'"; }

  /// A token file of two documents.
  fs::path tokenize() const {
    const fs::path text = directory_ / "text", tokens = directory_ / "tokens.h5";
    fs::create_directories(text);
    write(text / "a.txt", "All human beings are born free and equal in dignity and rights.");
    write(text / "b.txt", "They are endowed with reason and conscience.");
    const Ended ended =
        nibble("tokenize " + quoted(text) + " --tokenizer " + quoted(tokenizer_path_) + " --output " + quoted(tokens));
    EXPECT_EQ(ended.code, 0) << ended.output;
    return tokens;
  }
  /// Mean loss of all predictions in windows that follow each other.
  double mean_loss(const TokenData& data, int64_t window) {
    std::vector<int32_t> ids(static_cast<size_t>(data.tokens()));
    data.copy(0, ids);
    Llama model(stream_, config_, find_recipe("fp32"), {.sequences = 1, .length = window, .training = false});
    double sum = 0;
    for (size_t first = 0; first + 1 < ids.size(); first += static_cast<size_t>(window)) {
      std::vector<int32_t> inputs(static_cast<size_t>(window), 0), targets(static_cast<size_t>(window), -1);
      for (size_t i = 0; i < inputs.size() && first + i + 1 < ids.size(); ++i) {
        inputs[i] = ids[first + i];
        targets[i] = ids[first + i + 1];
      }
      sum += model.loss(weights_, {inputs, targets, {}});
    }
    return sum / static_cast<double>(ids.size() - 1);
  }
  Ended eval_as(const fs::path& tokens, const std::string& recipe) const {
    return nibble("eval --model " + quoted(folder()) + " --data " + quoted(tokens) + " --sequence 16 --recipe " +
                  recipe + " --threads 2 --json");
  }
  nlohmann::json eval(const fs::path& tokens, const std::string& recipe = "fp32") const {
    const Ended ended = eval_as(tokens, recipe);
    EXPECT_EQ(ended.code, 0) << ended.output;
    const size_t begin = std::min(ended.output.find('{'), ended.output.size());  // behind the display of progress
    return nlohmann::json::parse(ended.output.substr(begin), nullptr, false);
  }
  Ended generate() const {
    return nibble("generate --model " + quoted(folder()) +
                  " --prompt 'All human' --tokens 8 --temperature 0 --recipe fp32 --threads 2");
  }

  const fs::path tokenizer_path_ = fs::path(NIBBLE_TEST_DATA) / "data/data/small.model";
  const ModelConfig config_ = {
      .vocabulary = 900, .width = 32, .layers = 2, .heads = 4, .kv_heads = 2, .head_dim = 8, .ffn = 48, .context = 64};
  const ParameterLayout layout_{config_};
  const ParameterSet weights_{layout_, DType::f32, DType::f32, false, "weights"};
  Stream stream_{2};
};

TEST_F(CommandsOnModels, AnExportOfAFolderHoldsTheSameWeights) {
  const fs::path output = directory_ / "exported";
  const Ended ended = nibble("export " + quoted(folder()) + " --dtype f32 --output " + quoted(output));
  ASSERT_EQ(ended.code, 0) << ended.output;
  EXPECT_EQ(names_in(output), names_in(folder()));
  EXPECT_EQ(read_huggingface_config(output), config_);
  const ParameterSet exported = import_huggingface(output, layout_, DType::f32);
  for (size_t i = 0; i < exported.size(); ++i)
    for (int64_t row = 0; row < exported[i].rows; ++row)
      ASSERT_TRUE(std::equal(exported[i].row<float>(row), exported[i].row<float>(row) + exported[i].cols,
                             weights_[i].row<float>(row)))
          << layout_.parameters()[i].name;

  const Ended again = nibble("export " + quoted(folder()) + " --output " + quoted(output));
  EXPECT_EQ(again.code, 2);
  expect_said(again, "--overwrite");
}

TEST_F(CommandsOnModels, AnExportSaysHowFarItIsFromTheModel) {
  const fs::path output = directory_ / "model.gguf";
  const auto run_export = [&](const std::string& options, const fs::path& to) {
    const Ended ended = nibble("export " + quoted(folder()) + " --output " + quoted(to) + " " + options);
    EXPECT_EQ(ended.code, 0) << ended.output;
    return ended;
  };
  const auto divergence = [](const fs::path& file) {
    return std::get<double>(GgufFile(file).metadata().at("nibble.logit_difference.kl"));
  };
  expect_said(run_export("--format gguf --dtype f32", output), "logits differ by at most 0, rms 0; KL divergence 0 ");
  EXPECT_EQ(divergence(output), 0);
  const std::unique_ptr<WeightSource> read = open_gguf_weights(output, config_);
  EXPECT_EQ(std::get<std::vector<std::string>>(GgufFile(output).metadata().at("tokenizer.ggml.tokens")).size(), 900u);
  run_export("--format gguf --dtype f16 --overwrite", output);
  const double half = divergence(output);
  run_export("--format gguf --dtype bf16 --overwrite", output);
  EXPECT_GT(half, 0);
  EXPECT_GT(divergence(output), 4 * half);  // three bits fewer: 64 times
  const fs::path again = directory_ / "half";
  run_export("--dtype f16", again);
  const double stored =
      std::stod(SafetensorsFile(again / "model.safetensors").metadata().at("nibble.logit_difference.kl"));
  EXPECT_NEAR(stored, half, 1e-6 * half + 1e-15);
}

TEST_F(CommandsOnModels, WhatCannotBeExportedIsSaid) {
  const auto expect_refused = [&](int code, const std::string& text) {
    for (const char* format : {"safetensors", "gguf"}) {
      const fs::path output = directory_ / "exported";
      const Ended ended = nibble("export " + quoted(folder()) + " --format " + format + " --output " + quoted(output));
      EXPECT_EQ(ended.code, code) << ended.output;
      expect_said(ended, text);
      EXPECT_FALSE(fs::exists(output));
    }
  };
  const std::string config = read_file(folder() / "config.json", ErrorKind::data);
  nlohmann::json other = nlohmann::json::parse(config);
  other["architectures"] = {"MixtralForCausalLM"};
  other["model_type"] = "mixtral";
  write(folder() / "config.json", other.dump());
  expect_refused(4, "mixtral");
  write(folder() / "config.json", config);
  write(folder() / "model.safetensors.index.json",
        R"({"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}})");
  fs::remove(folder() / "model.safetensors");
  expect_refused(4, "shards of the weights are missing");
}

TEST_F(CommandsOnModels, EvaluationGivesTheModelsLoss) {
  const fs::path tokens = tokenize();
  const TokenData data = TokenData::open(tokens.string());
  ASSERT_NE((data.tokens() - 1) % 16, 0);  // so that the last window is not full
  const nlohmann::json answer = eval(tokens);
  ASSERT_TRUE(answer.is_object());
  EXPECT_EQ(answer["tokens"], data.tokens() - 1);
  EXPECT_NEAR(answer["loss"].get<double>(), mean_loss(data, 16), 1e-6);
}

TEST_F(CommandsOnModels, EvaluationTakesAnyRecipe) {
  const fs::path tokens = tokenize();
  const double exact = eval(tokens)["loss"];
  for (const char* recipe : {"bf16", "fp8", "ste-w8a8"}) {
    const nlohmann::json answer = eval(tokens, recipe);
    EXPECT_EQ(answer["recipe"], recipe);
    EXPECT_NE(answer["loss"], exact);
    EXPECT_NEAR(answer["loss"].get<double>(), exact, 0.05) << recipe;
  }
  const Ended unknown = eval_as(tokens, "fp88");
  EXPECT_EQ(unknown.code, 2);
  expect_said(unknown, "did you mean 'fp8'?");
  const Ended wide = eval_as(tokens, "quest-w4a4");
  EXPECT_EQ(wide.code, 2);
  expect_said(wide, "where:   precision, recipe quest-w4a4, layers.0.qkv");
  expect_said(wide, "128 would do");
}

TEST_F(CommandsOnModels, GenerationGoesOnFromThePromptAlikeEachTime) {
  const Ended first = generate();
  EXPECT_EQ(first.code, 0) << first.output;
  EXPECT_TRUE(first.output.starts_with("All human")) << first.output;
  EXPECT_GT(first.output.size(), sizeof "All human");
  EXPECT_EQ(generate().output, first.output);
}

TEST_F(CommandsOnModels, OnlyGenerationNeedsATokenizerThatCanBeRead) {
  const fs::path tokens = tokenize();
  write(folder() / "tokenizer.model", "IQ== 0\nIg== 1\nIw== 2\n");  // ranks in base64, as Llama 3's
  EXPECT_TRUE(eval(tokens).is_object());
  const Ended exported = nibble("export " + quoted(folder()) + " --output " + quoted(directory_ / "exported"));
  EXPECT_EQ(exported.code, 0);
  expect_said(exported, "tokenizer none stored; ");
  EXPECT_EQ(generate().code, static_cast<int>(ErrorKind::data));
}

}  // namespace
}  // namespace nibble
