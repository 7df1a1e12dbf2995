// Sampling and the printing of text.
#include "trainer/generation.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "model/llama.hpp"

namespace nibble {
namespace {

TEST(Sampling, FollowsTheProbabilities) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  constexpr int draws = 20000;
  std::map<int32_t, int> counts;
  for (int position = 0; position < draws; ++position) ++counts[sample(logits, {.temperature = 1}, position)];
  const double expected[] = {0.5, 0.3, 0.2};
  for (int id = 0; id < 3; ++id) {
    const double p = expected[id];
    EXPECT_NEAR(counts[id] / static_cast<double>(draws), p, 5 * std::sqrt(p * (1 - p) / draws));
  }
}

TEST(Sampling, TemperatureSharpensAndZeroPicksTheBest) {
  const std::vector<float> logits = {1, 3, 2};
  int best = 0;
  for (int position = 0; position < 1000; ++position) {
    EXPECT_EQ(sample(logits, {.temperature = 0}, position), 1);
    best += sample(logits, {.temperature = 0.5}, position) == 1;
  }
  const double p = 1 / (1 + std::exp(-2.0) + std::exp(-4.0));  // differences doubled by temperature 0.5
  EXPECT_NEAR(best / 1000.0, p, 5 * std::sqrt(p * (1 - p) / 1000));
}

TEST(Sampling, TopPCutsTheTail) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  for (int position = 0; position < 1000; ++position) {
    EXPECT_NE(sample(logits, {.temperature = 1, .top_p = 0.7}, position), 2);
    EXPECT_EQ(sample(logits, {.temperature = 1, .top_p = 0.4}, position), 0);
  }
}

TEST(Sampling, IsAFunctionOfSeedAndPosition) {
  const std::vector<float> logits(100, 0.0f);
  int same = 0;
  for (int position = 0; position < 100; ++position) {
    EXPECT_EQ(sample(logits, {.seed = 3}, position), sample(logits, {.seed = 3}, position));
    same += sample(logits, {.seed = 3}, position) == sample(logits, {.seed = 4}, position);
  }
  EXPECT_LT(same, 20);
}

/// A byte-level Llama with random weights of the given deviation.
struct RandomLlama {
  explicit RandomLlama(double deviation) {
    initialize(stream, config, layout, 1, deviation, weights);  // fp32: the working copy is packed like the masters
  }
  Decoder decoder(int64_t capacity) { return {stream, config, find_recipe("fp32"), weights, capacity}; }

  Stream stream{2};
  ModelConfig config{.vocabulary = 259,
                     .width = 64,
                     .layers = 2,
                     .heads = 4,
                     .kv_heads = 4,
                     .head_dim = 16,
                     .ffn = 176,
                     .context = 128};
  ParameterLayout layout{config};
  ParameterSet weights{layout, DType::f32, DType::f32, false, "weights"};
  std::unique_ptr<Tokenizer> tokenizer = make_byte_tokenizer();
};

TEST(Generation, PrintsWholeCharactersAndReplacesBrokenOnes) {
  RandomLlama llama(0.5);  // random bytes, of which few are UTF-8
  Decoder decoder = llama.decoder(400);
  std::string text;
  const int64_t tokens =
      generate(decoder, *llama.tokenizer, "x", {}, {.tokens = 300, .temperature = 1}, [&](std::string_view piece) {
        EXPECT_EQ(find_invalid_utf8(piece), std::string_view::npos);
        text += piece;
      });
  EXPECT_EQ(tokens, 300);
  EXPECT_NE(text.find("\xef\xbf\xbd"), std::string::npos);
}

TEST(Generation, StopsAtAnEndAndAtTheCapacity) {
  RandomLlama llama(0.02);
  const auto ignore = [](std::string_view) {};
  {
    Decoder decoder = llama.decoder(20);
    EXPECT_EQ(generate(decoder, *llama.tokenizer, "abc", {}, {.tokens = 1000}, ignore),
              17);  // BOS and three letters first
  }
  std::vector<int64_t> all;
  for (int64_t id = 0; id < 259; ++id) all.push_back(id);
  Decoder decoder = llama.decoder(20);
  EXPECT_EQ(generate(decoder, *llama.tokenizer, "abc", all, {.tokens = 1000}, ignore), 1);
}

}  // namespace
}  // namespace nibble
