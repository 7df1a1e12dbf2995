#include "data/tokenizer.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "data/sentencepiece_training.hpp"
#include "tensor/files.hpp"
#include "tests/data/test_files.hpp"

namespace nibble {
namespace {

using Ids = std::vector<int32_t>;

TEST(ByteTokenizer, IdsAreTheBytesAndSpecialsFollow) {
  const auto tokenizer = make_tokenizer("byte");
  std::string all;
  Ids expected;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte), expected.push_back(byte);
  EXPECT_EQ(tokenizer->encode(all), expected);
  EXPECT_EQ(tokenizer->decode(expected), all);
  EXPECT_EQ(tokenizer->vocabulary(), 259);
  EXPECT_EQ(tokenizer->bos(), 256);
  EXPECT_EQ(tokenizer->eos(), 257);
  EXPECT_EQ(tokenizer->info().pad, 258);
  EXPECT_EQ(tokenizer->info().identity, "byte");
  EXPECT_EQ(tokenizer->decode(Ids{256, 'a', 258, 'b', 257}), "ab");
  EXPECT_TRUE(tokenizer->files().empty());
}

TEST(ByteTokenizer, IdsOutsideTheVocabularyAreRefused) {
  const auto tokenizer = make_byte_tokenizer();
  EXPECT_EQ(error_of([&] { tokenizer->decode(Ids{259}); }).seen, "259");
  EXPECT_EQ(error_of([&] { tokenizer->decode(Ids{-1}); }).kind, ErrorKind::data);
}

TEST(SentencePieceTokenizer, GivesTheIdsAndTextsOfThePythonPackage) {
  const auto tokenizer = make_tokenizer(fixture("small.model"));
  EXPECT_EQ(tokenizer->vocabulary(), 900);
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_EQ(tokenizer->eos(), 2);
  EXPECT_EQ(tokenizer->info().identity, "sentencepiece:small");
  const auto cases = nlohmann::json::parse(read_file(fixture("sentencepiece_cases.json"), ErrorKind::data));
  ASSERT_GT(cases["cases"].size(), 15u);
  for (const auto& one : cases["cases"]) {
    const auto text = one["text"].get<std::string>();
    const Ids ids = one["ids"].get<Ids>();
    EXPECT_EQ(tokenizer->encode(text), ids) << text;
    EXPECT_EQ(tokenizer->decode(ids), one["decoded"].get<std::string>());
  }
}

TEST(SentencePieceTokenizer, TextsOfPrefixesArePrefixesOfTheText) {
  const auto tokenizer = make_tokenizer(fixture("small.model"));
  const std::string text = "A llama 🦙, Würde und 尊严.";
  const Ids ids = tokenizer->encode(text);
  EXPECT_EQ(tokenizer->decode(ids), text);
  for (size_t count = 0; count <= ids.size(); ++count)
    EXPECT_TRUE(text.starts_with(tokenizer->decode(std::span(ids).first(count)))) << count;
  // The llama is four byte tokens: after the first, an incomplete character is there, and nothing else.
  EXPECT_EQ(tokenizer->token_text(3 + 0xF0), "\xF0");
  EXPECT_EQ(tokenizer->token_text(1), "");
}

TEST(SentencePieceTokenizer, AContinuationGetsNoSpaceOfItsOwn) {
  const auto tokenizer = make_tokenizer(fixture("small.model"));
  for (const char* completion : {"world", " world", "\nworld", "42", "尊"}) {
    Ids ids = tokenizer->encode("hello");
    const size_t prompt = ids.size();
    tokenizer->encode_continuation(completion, ids);
    EXPECT_GT(ids.size(), prompt);
    EXPECT_EQ(tokenizer->decode(ids), std::string("hello") + completion);
  }
  Ids ids = tokenizer->encode("hello");
  const Ids before = ids;
  tokenizer->encode_continuation("", ids);
  EXPECT_EQ(ids, before);
}

TEST(SentencePieceTokenizer, InvalidUtf8IsRefusedWithItsPosition) {
  const auto tokenizer = make_tokenizer(fixture("small.model"));
  const ErrorDetail error = error_of([&] { tokenizer->encode("good \xC3\x28 bad"); });
  EXPECT_EQ(error.kind, ErrorKind::data);
  EXPECT_EQ(error.where, "byte 5 of the text");
  EXPECT_EQ(error.seen, "0xc3");
}

TEST(Utf8, ExactlyTheValidSequencesPass) {
  for (const char* valid : {"", "a", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
                            "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"})
    EXPECT_EQ(find_invalid_utf8(valid), std::string_view::npos) << valid;
  // Stray continuation, overlong two, three and four bytes, a surrogate, above U+10FFFF, cut short, unused leads.
  for (const char* invalid :
       {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xF0\x8F\xBF\xBF", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xC3",
        "\xE2\x82", "\xF0\x9F\xA6", "\xF5\x80\x80\x80", "\xFF", "\xE2\x28\xA1", "\xE2\x82\x28"}) {
    EXPECT_EQ(find_invalid_utf8(invalid), 0u);
    EXPECT_EQ(find_invalid_utf8(std::string("abc") + invalid + "def"), 3u);
  }
}

class TokenizerFileTest : public TemporaryFolderTest {};

TEST_F(TokenizerFileTest, MissingAndForeignFilesAreRefused) {
  EXPECT_EQ(error_of([&] { make_tokenizer(path("absent.model")); }).kind, ErrorKind::data);
  const ErrorDetail foreign = error_of([&] { make_tokenizer(write("text.model", "just some text")); });
  EXPECT_EQ(foreign.kind, ErrorKind::data);
  EXPECT_EQ(foreign.seen, "text");
  EXPECT_THROW(make_tokenizer(write("empty.model", "")), Error);
  EXPECT_THROW(make_tokenizer(write("newline.model", "\nbut then no protocol buffer")), Error);
  EXPECT_THROW(make_tokenizer(path("")), Error);
  EXPECT_EQ(error_of([&] { make_tokenizer(path(std::string(300, 'x'))); }).kind, ErrorKind::data);
  const std::string whole = contents(fixture("small.model"));
  EXPECT_THROW(make_tokenizer(write("short.model", std::string_view(whole).substr(0, whole.size() / 2 + 1))), Error);
}

/// A corpus with enough words to merge.
SentencePieceTraining small_training() {
  SentencePieceTraining training;
  for (int i = 0; i < 300; ++i)
    training.add("The weather in town " + std::to_string(i * 7919 % 1000) +
                     " is rainy and the wind comes from the north.\n\tWürde 尊严 zażółć gęślą jaźń\n",
                 "text");
  return training;
}

TEST(SentencePieceTraining, FollowsLlamaConventionsAndIsDeterministic) {
  const std::string model = small_training().train(340);
  EXPECT_EQ(small_training().train(340), model);
  const auto tokenizer = make_sentencepiece_tokenizer(model, "trained");
  EXPECT_EQ(tokenizer->vocabulary(), 340);
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_EQ(tokenizer->eos(), 2);
  EXPECT_EQ(tokenizer->info().pad, -1);
  for (int byte = 0; byte < 256; ++byte)
    EXPECT_EQ(tokenizer->token_text(3 + byte), std::string(1, static_cast<char>(byte)));
  for (const std::string text : {"  rainy  wind\n\n\tin town 123", "never seen: Ωμέγα 🦙", "", " "})
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  // Digits stay apart: "11" is two tokens behind its space.
  EXPECT_EQ(tokenizer->encode("1111").size() - tokenizer->encode("11").size(), 2u);
  EXPECT_LT(tokenizer->encode("The weather").size(), 8u);
}

TEST(SentencePieceTraining, ImpossibleVocabulariesAndTextsAreRefused) {
  EXPECT_EQ(error_of([] { small_training().train(100); }).kind, ErrorKind::configuration);
  EXPECT_EQ(error_of([] { small_training().train(259); }).kind, ErrorKind::configuration);
  EXPECT_EQ(error_of([] { small_training().train(1000000); }).kind, ErrorKind::configuration);
  EXPECT_EQ(error_of([] { SentencePieceTraining().train(300); }).kind, ErrorKind::data);
  SentencePieceTraining training;
  EXPECT_EQ(error_of([&] { training.add("ab\xFF", "file.txt"); }).where, "file.txt, byte 2 of the text");
}

/// Lines of words that stand in no other line.
std::string unique_words(int first, int lines) {
  std::string text;
  for (int line = first; line < first + lines; ++line) {
    for (int word = 0; word < 8; ++word) text += hex(static_cast<uint64_t>(line * 8 + word) * 0x9E3779B97F4A7C15) + " ";
    text += '\n';
  }
  return text;
}

/// The largest vocabulary that the text collected supports: it grows with the text.
int64_t largest_vocabulary(SentencePieceTraining& training) {
  const std::string seen = error_of([&] { training.train(10'000'000); }).seen;
  const size_t limit = seen.find("<= ");
  EXPECT_NE(limit, std::string::npos) << seen;
  return std::stoll(seen.substr(limit + 3));
}

TEST(SentencePieceTraining, KeepsABoundedShareOfLargeDocuments) {
  // Two documents, each far above the bound: about 680 KB in 11 pieces.
  const std::string first = unique_words(0, 5000), second = unique_words(5000, 5000);
  SentencePieceTraining bounded(300'000), reversed(300'000), whole;
  bounded.add(first, "first"), bounded.add(second, "second");
  reversed.add(second, "second"), reversed.add(first, "first");
  whole.add(first, "first"), whole.add(second, "second");
  const int64_t sampled = largest_vocabulary(bounded), all = largest_vocabulary(whole);
  EXPECT_GT(sampled, all / 10);
  EXPECT_LT(sampled, all / 2);
  EXPECT_EQ(largest_vocabulary(reversed), sampled);
}

TEST(SentencePieceTraining, NeverDropsEverything) {
  SentencePieceTraining training(1);
  training.add(unique_words(0, 2000), "text");
  training.add(std::string(200'000, 'x') + "\xC3\xA9", "one long line");
  EXPECT_EQ(make_sentencepiece_tokenizer(training.train(265), "x")->vocabulary(), 265);
}

}  // namespace
}  // namespace nibble
