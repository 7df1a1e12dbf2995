#include "data/tokenize.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "data/sentencepiece_training.hpp"
#include "data/token_data.hpp"
#include "tests/data/test_files.hpp"

namespace nibble {
namespace {

using Ids = std::vector<int32_t>;

class TokenizeTest : public TemporaryFolderTest {
 protected:
  static Ids all_tokens(const std::string& file) {
    const TokenData data = TokenData::open(file);
    Ids ids(static_cast<size_t>(data.tokens()));
    data.copy(0, ids);
    return ids;
  }
  /// `count` documents of different text.
  std::string many(const std::string& name, int count, int first = 0) const {
    std::string lines;
    for (int i = first; i < first + count; ++i)
      lines += "{\"text\": \"Document " + std::to_string(i) + " has a text of its own.\"}\n";
    return write(name, lines);
  }
};

TEST_F(TokenizeTest, DocumentsBeginWithBosAndPairsEndWithEos) {
  const std::string input = write("in.jsonl",
                                  "{\"text\": \"ab\"}\n{\"prompt\": \"p\", \"completion\": \"cd\"}\n"
                                  "{\"prompt\": \"\", \"completion\": \"e\"}\n");
  const auto tokenizer = make_byte_tokenizer();
  const TokenizeSummary summary = tokenize({.inputs = {input}, .output = path("out.h5")}, *tokenizer);
  EXPECT_EQ(all_tokens(path("out.h5")), (Ids{256, 'a', 'b', 256, 'p', 'c', 'd', 257, 256, 'e', 257}));
  const TokenData data = TokenData::open(path("out.h5"));
  EXPECT_EQ(std::vector<uint8_t>(data.loss_mask().begin(), data.loss_mask().end()),
            (std::vector<uint8_t>{1, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1}));
  EXPECT_EQ(data.text_bytes(), 5);  // the prompt is not learned
  EXPECT_TRUE(summary.has_prompts);
  EXPECT_EQ(summary.train.documents, 3);
  EXPECT_EQ(summary.train.tokens, 11);
  EXPECT_EQ(summary.train.text_bytes, 5);

  tokenize({.inputs = {input}, .output = path("eos.h5"), .append_eos = true}, *tokenizer);
  EXPECT_EQ(all_tokens(path("eos.h5")), (Ids{256, 'a', 'b', 257, 256, 'p', 'c', 'd', 257, 256, 'e', 257}));
}

TEST_F(TokenizeTest, CompletionsContinueTheirPrompts) {
  const std::string input = write("in.jsonl", "{\"prompt\": \"the file\", \"completion\": \"s are read\"}\n");
  const auto tokenizer = make_tokenizer(fixture("small.model"));
  tokenize({.inputs = {input}, .output = path("out.h5")}, *tokenizer);
  const Ids ids = all_tokens(path("out.h5")), prompt = tokenizer->encode("the file");
  EXPECT_EQ(tokenizer->decode(ids), "the files are read");
  EXPECT_EQ(Ids(ids.begin() + 1, ids.begin() + 1 + static_cast<std::ptrdiff_t>(prompt.size())), prompt);
}

TEST_F(TokenizeTest, ValidationIsAStableShareOfTheDocuments) {
  const auto tokenizer = make_byte_tokenizer();
  const auto run = [&](std::vector<std::string> inputs, const std::string& name) {
    const TokenizeSummary summary = tokenize({.inputs = std::move(inputs),
                                              .output = path(name + ".h5"),
                                              .validation = 0.1,
                                              .validation_output = path(name + "-val.h5")},
                                             *tokenizer);
    EXPECT_EQ(summary.validation->path, path(name + "-val.h5"));
    return std::pair(summary.train.documents, summary.validation->documents);
  };
  const std::string first = many("a.jsonl", 1000), more = many("b.jsonl", 1000, 1000);
  const auto [train, validation] = run({first}, "one");
  EXPECT_EQ(train + validation, 1000);
  EXPECT_NEAR(static_cast<double>(validation), 100, 4 * 9.5);  // binomial, deviation sqrt(1000 0.1 0.9)
  run({more, first}, "two");
  // What was validation alone is validation among more, in the same order behind the new documents.
  const Ids alone = all_tokens(path("one-val.h5")), among = all_tokens(path("two-val.h5"));
  ASSERT_GT(among.size(), alone.size());
  EXPECT_TRUE(std::equal(alone.rbegin(), alone.rend(), among.rbegin()));
}

TEST_F(TokenizeTest, ThreadsDoNotChangeTheFile) {
  const std::string input = many("a.jsonl", 300);
  const auto tokenizer = make_tokenizer(fixture("small.model"));
  tokenize({.inputs = {input}, .output = path("one.h5"), .threads = 1}, *tokenizer);
  tokenize({.inputs = {input}, .output = path("three.h5"), .threads = 3}, *tokenizer);
  EXPECT_EQ(contents(path("one.h5")), contents(path("three.h5")));
}

TEST_F(TokenizeTest, DuplicatesAreCounted) {
  const std::string text = "One two three four five six seven eight nine ten.\nA second line of the text.\n";
  write("in/a.txt", text);
  write("in/b.txt", text);
  write("in/c.txt", "Something else entirely stands in here today.\nA second line of the text.\n");
  const auto tokenizer = make_byte_tokenizer();
  const TokenizeSummary summary =
      tokenize({.inputs = {path("in")}, .output = path("out.h5"), .deduplicate = true}, *tokenizer);
  ASSERT_TRUE(summary.deduplication.has_value());
  EXPECT_EQ(summary.deduplication->near_duplicates, 1);
  EXPECT_EQ(summary.deduplication->lines_dropped, 1);
  EXPECT_EQ(summary.train.documents, 2);
  EXPECT_EQ(summary.train.text_bytes, summary.deduplication->bytes_after);
  EXPECT_EQ(summary.deduplication->bytes_before - summary.deduplication->bytes_after,
            static_cast<int64_t>(text.size()) + 27);
  EXPECT_EQ(summary.counts.files, 3);
}

TEST_F(TokenizeTest, DeduplicationMovesNoDocumentToAnotherSide) {
  // Every document has a line of its own, "#N#", and one that stood in other documents, which deduplication drops.
  std::vector<std::string> texts;
  std::string lines;
  for (int i = 0; i < 300; ++i) {
    texts.push_back("#" + std::to_string(i) + "#");
    for (int word = 0; word < 20; ++word) texts.back() += " w" + std::to_string(i * 20 + word);
    texts.back() += "\nA line that documents share, number " + std::to_string(i % 7) + "\n";
    lines += nlohmann::json{{"text", texts.back()}}.dump() + "\n";
  }
  TokenizeOptions options{.inputs = {write("a.jsonl", lines)},
                          .output = path("train.h5"),
                          .validation = 0.3,
                          .validation_output = path("val.h5"),
                          .deduplicate = true};
  const auto tokenizer = make_byte_tokenizer();
  tokenize(options, *tokenizer);
  const std::string train = tokenizer->decode(all_tokens(path("train.h5")));
  const std::string validation = tokenizer->decode(all_tokens(path("val.h5")));

  Deduplicator deduplicator;
  SentencePieceTraining expected;
  int64_t validating = 0;
  for (int i = 0; i < 300; ++i) {
    Document document{.id = "test", .prompt = {}, .text = texts[static_cast<size_t>(i)]};
    const bool validates = in_validation(document, 0.3);  // of the text as it was read
    validating += validates;
    const std::string name = "#" + std::to_string(i) + "#";
    EXPECT_EQ(validation.find(name) != std::string::npos, validates) << i;
    EXPECT_EQ(train.find(name) != std::string::npos, !validates) << i;
    ASSERT_TRUE(deduplicator.keep(document));
    if (!validates) expected.add(document.text, document.id);
  }
  EXPECT_GT(validating, 50);
  EXPECT_GT(deduplicator.counts().lines_dropped, 250);
  EXPECT_EQ(train_sentencepiece(options, 290), expected.train(290));
}

TEST_F(TokenizeTest, ErrorsLeaveOldFilesAlone) {
  const auto tokenizer = make_byte_tokenizer();
  write("out.h5", "old");
  write("val.h5", "old");
  const std::string bad = write("bad.jsonl", "{\"text\": \"fine\"}\n{\n");
  EXPECT_EQ(error_of([&] { tokenize({.inputs = {bad}, .output = path("out.h5")}, *tokenizer); }).where,
            bad + ", line 2");
  const ErrorDetail empty = error_of([&] {
    tokenize({.inputs = {write("one.txt", "one document")},
              .output = path("out.h5"),
              .validation = 0.0001,
              .validation_output = path("val.h5")},
             *tokenizer);
  });
  EXPECT_EQ(empty.what, "no document fell to validation");
  EXPECT_NE(empty.next.find("--split-documents"), std::string::npos);
  EXPECT_EQ(error_of([&] { tokenize({.inputs = {write("e.txt", "")}, .output = path("out.h5")}, *tokenizer); }).what,
            "no document is left for training");
  EXPECT_EQ(contents(path("out.h5")), "old");
  EXPECT_EQ(contents(path("val.h5")), "old");
}

TEST_F(TokenizeTest, InvalidUtf8IsAnErrorForSentencePieceOnly) {
  write("in/a.txt", "fine");
  const std::string bad = write("in/b.txt", "caf\xE9");
  tokenize({.inputs = {path("in")}, .output = path("bytes.h5")}, *make_byte_tokenizer());
  EXPECT_EQ(all_tokens(path("bytes.h5")), (Ids{256, 'f', 'i', 'n', 'e', 256, 'c', 'a', 'f', 0xE9}));
  const auto tokenizer = make_tokenizer(fixture("small.model"));
  const ErrorDetail error = error_of([&] { tokenize({.inputs = {path("in")}, .output = path("out.h5")}, *tokenizer); });
  EXPECT_EQ(error.kind, ErrorKind::data);
  EXPECT_EQ(error.where, bad + ", byte 3 of the text");
}

TEST_F(TokenizeTest, ProgressEndsAtTheWhole) {
  int64_t last_read = 0, last_total = 0;
  const std::string input = many("a.jsonl", 10);
  tokenize({.inputs = {input},
            .output = path("out.h5"),
            .progress = [&](int64_t read, int64_t total) { last_read = read, last_total = total; }},
           *make_byte_tokenizer());
  EXPECT_EQ(last_read, static_cast<int64_t>(std::filesystem::file_size(input)));
  EXPECT_EQ(last_total, last_read);
}

TEST_F(TokenizeTest, ATokenizerIsTrainedOnTrainingDocumentsOnly) {
  const std::string input = many("a.jsonl", 200);
  const TokenizeOptions all{.inputs = {input}, .output = path("out.h5")};
  const std::string model = train_sentencepiece(all, 300);
  EXPECT_EQ(make_sentencepiece_tokenizer(model, "x")->vocabulary(), 300);
  EXPECT_EQ(train_sentencepiece(all, 300), model);
  TokenizeOptions none = all;
  none.validation = 0.999999;
  EXPECT_EQ(error_of([&] { train_sentencepiece(none, 300); }).what, "there is no text to train a tokenizer on");
}

}  // namespace
}  // namespace nibble
