// A Hugging Face folder with tokenizer.json: tokenized with, trained on, generated from, and exported again.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "data/token_data.hpp"
#include "model/llama.hpp"
#include "tensor/files.hpp"
#include "tests/data/byte_level_file.hpp"
#include "tests/trainer/run_program.hpp"
#include "trainer/huggingface.hpp"
#include "trainer/run_directory.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

class ContinuedTraining : public TemporaryFolderTest {
 protected:
  void SetUp() override {
    TemporaryFolderTest::SetUp();
    const ModelConfig config = {.vocabulary = 3328,  // more than the tokenizer's, as Qwen's
                                .width = 16,
                                .layers = 1,
                                .heads = 2,
                                .kv_heads = 1,
                                .head_dim = 8,
                                .ffn = 24,
                                .context = 64,
                                .tied = true};
    const ParameterLayout layout(config);
    const ParameterSet weights(layout, DType::f32, DType::f32, false, "weights");
    initialize(stream_, config, layout, 5, 0.2, weights);
    export_huggingface(path("llama"), config, weights,
                       {.dtype = DType::f32, .tokens = {.begin = 3256, .ends = {3257}}, .tokenizer_files = files_});
    std::string text;
    for (int i = 0; i < 40; ++i) text += fmt::format("Line {} of a text: all human beings are born free.\n", i);
    write("text.txt", text);
  }
  std::string quoted(const std::string& name) const { return "'" + path(name) + "'"; }
  void run(const std::string& arguments) const {
    const Ended ended = nibble(arguments);
    EXPECT_EQ(ended.code, 0) << arguments << "\n" << ended.output;
  }
  void tokenize(const std::string& tokenizer, const std::string& output) const {
    run("tokenize " + quoted("text.txt") + " --append-eos --tokenizer " + tokenizer + " --output " + quoted(output));
  }
  Ended train(const std::string& directory, const std::string& tokens, int steps) const {
    write("run.yaml",
          "model: {from: llama}\ndata: {sequence: 32}\nbatch: {tokens: 64, micro: 1, lanes: 2}\n"
          "optimizer: {learning_rate: 0.01}\nrun: {threads: 1}\n");
    return nibble("train " + quoted("run.yaml") + " --set model.from=" + quoted("llama") +
                  " --set data.train=" + quoted(tokens) + " --set steps=" + std::to_string(steps) +
                  " --set run.directory=" + quoted(directory));
  }

  Stream stream_{1};
  const std::vector<TokenizerFile> files_ = {
      {"tokenizer.json", test::byte_level_text()},
      {"tokenizer_config.json", R"({"eos_token": "<|end_of_text|>", "chat_template": "{{ messages }}"})"},
      {"special_tokens_map.json", R"({"eos_token": "<|end_of_text|>"})"}};
};

TEST_F(ContinuedTraining, TheTokenizerGoesFromFolderToShardToCheckpointToFolder) {
  tokenize(quoted("llama"), "tokens.h5");
  const TokenData data = TokenData::open(path("tokens.h5"));
  EXPECT_EQ(data.tokenizer().identity, "huggingface:llama");
  EXPECT_EQ(data.tokenizer_files(), files_);

  const Ended trained = train("run", "tokens.h5", 30);
  ASSERT_EQ(trained.code, 0) << trained.output;
  const LoadedModel model = load_model(path("run"), DType::f32);
  EXPECT_EQ(model.config.vocabulary, 3328);
  EXPECT_EQ(model.step, 30);
  ASSERT_TRUE(model.tokenizer);
  EXPECT_EQ(model.tokenizer->info(), data.tokenizer());
  EXPECT_EQ(model.tokens.ends, std::vector<int64_t>{3257});

  const auto loss = [&](const std::string& of) {
    const Ended ended = nibble("eval --json --threads 1 --recipe fp32 --sequence 32 --model " + quoted(of) +
                               " --data " + quoted("tokens.h5"));
    EXPECT_EQ(ended.code, 0) << ended.output;
    return nlohmann::json::parse(ended.output.substr(ended.output.find('{')))["loss"].get<double>();
  };
  EXPECT_LT(loss("run"), loss("llama") - 0.5);

  run("export " + quoted("run") + " --output " + quoted("exported"));
  for (const TokenizerFile& file : files_)
    EXPECT_EQ(contents(path("exported/" + file.name)), file.contents) << file.name;
  const Ended generated =
      nibble("generate --threads 1 --temperature 0 --tokens 5 --prompt 'Line 1' --model " + quoted("exported"));
  EXPECT_EQ(generated.code, 0) << generated.output;
  EXPECT_TRUE(generated.output.starts_with("Line 1")) << generated.output;
}

TEST_F(ContinuedTraining, TokensOfAnotherTokenizerAreRefused) {
  tokenize("byte", "bytes.h5");
  const Ended bytes = train("bytes", "bytes.h5", 1);
  EXPECT_EQ(bytes.code, 3);
  expect_said(bytes, "the tokens were not made with the model's tokenizer");
  expect_said(bytes, "huggingface:llama");
}

TEST_F(ContinuedTraining, AFolderWithoutAConfigurationOfItsTokenizerGetsOne) {
  fs::remove(path("llama/tokenizer_config.json"));
  fs::remove(path("llama/special_tokens_map.json"));
  run("export " + quoted("llama") + " --output " + quoted("exported"));
  EXPECT_EQ(contents(path("exported/tokenizer.json")), test::byte_level_text());
  EXPECT_NE(contents(path("exported/tokenizer_config.json")).find("PreTrainedTokenizerFast"), std::string::npos);
}

TEST_F(ContinuedTraining, WhatTheTokenizerCannotDoIsSaidWhereItIsNeeded) {
  nlohmann::json file = test::byte_level_json();
  file["model"]["type"] = "Unigram";
  write("llama/tokenizer.json", file.dump());
  const Ended generated = nibble("generate --prompt a --model " + quoted("llama"));
  EXPECT_EQ(generated.code, 3);
  expect_said(generated, "the tokenizer is not a byte-pair encoding");
  const Ended tokenized =
      nibble("tokenize " + quoted("text.txt") + " --tokenizer " + quoted("llama") + " --output " + quoted("t.h5"));
  EXPECT_EQ(tokenized.code, 3);
  expect_said(tokenized, "llama: tokenizer.json: model: \"type\"");
}

}  // namespace
}  // namespace nibble
