// Generation's forward pass against the training pass and PyTorch's logits.
#include "model/decoder.hpp"

#include <gtest/gtest.h>

#include "tensor/error.hpp"
#include "tests/model/fixtures.hpp"

namespace nibble {
namespace {

using test::ReferenceLlama;

class Decoding : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Llamas, Decoding, ::testing::Values("mha", "gqa-tied", "qk-norm"));

TEST_P(Decoding, OneByOneAndInPiecesGiveTheLogitsOfTheWholeSequence) {
  ReferenceLlama llama(GetParam());
  const Tensor& expected = llama.batch_file["logits"];
  const std::span<const int32_t> sequence(llama.inputs.data(), 32);
  for (const size_t piece : {size_t{1}, size_t{7}, size_t{32}}) {
    Decoder decoder(llama.stream, llama.config, find_recipe("fp32"), llama.weights, 32);
    for (size_t first = 0; first < 32; first += piece) {
      const size_t count = std::min(piece, 32 - first);
      const std::span<const float> logits = decoder.read(sequence.subspan(first, count));
      const auto last = static_cast<int64_t>(first + count - 1);
      for (size_t v = 0; v < logits.size(); ++v)
        ASSERT_NEAR(logits[v], expected.row<float>(last)[v], 2e-5) << piece << " " << last;
    }
    EXPECT_EQ(decoder.position(), 32);
  }
}

TEST_P(Decoding, InputsLongerThanAChunk) {
  ReferenceLlama llama(GetParam());
  std::vector<int32_t> ids;
  for (int i = 0; i < 100; ++i) ids.push_back(i * 37 % static_cast<int32_t>(llama.config.vocabulary));
  Decoder whole(llama.stream, llama.config, find_recipe("fp32"), llama.weights, 100);
  Decoder single(llama.stream, llama.config, find_recipe("fp32"), llama.weights, 100);
  const std::span<const float> at_once = whole.read(ids);
  std::span<const float> one_by_one;
  for (const int32_t id : ids) one_by_one = single.read(std::span(&id, 1));
  for (size_t v = 0; v < at_once.size(); ++v) ASSERT_NEAR(at_once[v], one_by_one[v], 2e-5);
}

TEST(DecodingErrors, TooManyTokensAndForeignIds) {
  ReferenceLlama llama("mha");
  Decoder decoder(llama.stream, llama.config, find_recipe("fp32"), llama.weights, 3);
  EXPECT_THROW(decoder.read(std::vector<int32_t>{1, 2, 3, 4}), Error);
  EXPECT_THROW(decoder.read(std::vector<int32_t>{256}), Error);
  EXPECT_THROW(decoder.read({}), Error);
  EXPECT_NO_THROW(decoder.read(std::vector<int32_t>{1, 2, 3}));
  EXPECT_THROW(decoder.read(std::vector<int32_t>{1}), Error);
}

}  // namespace
}  // namespace nibble
