#include "trainer/command_tokenize.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/token_data.hpp"
#include "tests/tensor/temporary_directory.hpp"

namespace nibble {
namespace {

class TokenizeCommandTest : public TemporaryDirectoryTest {
 protected:
  void SetUp() override {
    TemporaryDirectoryTest::SetUp();
    std::ofstream text(directory_ / "in.txt");
    for (int i = 0; i < 200; ++i) text << "Paragraph " << i << " of a text with some words.\n\n";
  }
  std::string path(const std::string& name) const { return (directory_ / name).string(); }

  /// Runs `nibble tokenize IN --output OUT options...`; what it printed.
  std::string run(std::vector<std::string> options) const {
    CLI::App app("test");
    add_tokenize_command(app);
    options.insert(options.begin(), {"tokenize", path("in.txt")});
    if (std::ranges::find(options, "--output") == options.end())
      options.insert(options.end(), {"--output", path("out.h5")});
    std::vector<std::string> reversed(options.rbegin(), options.rend());
    testing::internal::CaptureStdout();
    try {
      app.parse(reversed);
    } catch (...) {
      testing::internal::GetCapturedStdout();
      throw;
    }
    return testing::internal::GetCapturedStdout();
  }
  std::string refusal(const std::vector<std::string>& options) const {
    try {
      run(options);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::configuration);
      EXPECT_FALSE(std::filesystem::exists(path("out.h5")));
      return error.detail().what;
    }
    return "nothing was refused";
  }
};

TEST_F(TokenizeCommandTest, SplitsATextAndSaysWhatItDid) {
  const std::string printed =
      run({"--split-documents", "1KiB", "--validation", "20%", "--validation-output", path("val.h5"), "--append-eos"});
  const TokenData train = TokenData::open(path("out.h5")), validation = TokenData::open(path("val.h5"));
  EXPECT_GT(train.documents(), 1);
  EXPECT_GE(validation.documents(), 1);
  const auto size = static_cast<int64_t>(std::filesystem::file_size(path("in.txt")));
  EXPECT_EQ(*train.text_bytes() + *validation.text_bytes(), size);
  EXPECT_EQ(train.tokens() + validation.tokens(), size + 2 * (train.documents() + validation.documents()));
  EXPECT_NE(printed.find("next: nibble train"), std::string::npos) << printed;
  EXPECT_NE(printed.find(path("val.h5")), std::string::npos) << printed;
}

TEST_F(TokenizeCommandTest, TrainsATokenizerAndPrintsJson) {
  const std::string printed = run({"--train-sentencepiece", "300", "--tokenizer-output", path("tok.model"), "--json"});
  const auto json = nlohmann::json::parse(printed);
  EXPECT_EQ(json["tokenizer"], "sentencepiece:tok");
  EXPECT_EQ(json["vocabulary"], 300);
  const TokenData data = TokenData::open(path("out.h5"));
  EXPECT_EQ(json["train"]["tokens"], data.tokens());
  EXPECT_EQ(data.make_tokenizer()->info(), make_tokenizer(path("tok.model"))->info());
  EXPECT_EQ(run({"--tokenizer", path("tok.model"), "--json"}), printed);
}

TEST_F(TokenizeCommandTest, MakesTheFoldersOfItsOutputs) {
  run({"--output", path("new/tokens/train.h5"), "--validation", "20%", "--split-documents", "1KiB",
       "--validation-output", path("other/val.h5"), "--train-sentencepiece", "300", "--tokenizer-output",
       path("third/tok.model")});
  EXPECT_GT(TokenData::open(path("new/tokens/train.h5")).tokens(), 0);
  EXPECT_GT(TokenData::open(path("other/val.h5")).tokens(), 0);
  EXPECT_TRUE(std::filesystem::exists(path("third/tok.model")));
}

TEST_F(TokenizeCommandTest, ContradictionsAreRefused) {
  EXPECT_EQ(refusal({"--validation", "1%"}), "--validation and --validation-output go together");
  EXPECT_EQ(refusal({"--validation-output", path("v.h5")}), "--validation and --validation-output go together");
  EXPECT_EQ(refusal({"--validation", "1%", "--validation-output", path("./out.h5")}), "both outputs are the same file");
  for (const char* share : {"0%", "100%", "-1%", "1.5"})
    EXPECT_EQ(refusal({"--validation", share, "--validation-output", path("v.h5")}),
              "the share of validation documents is out of range")
        << share;
  EXPECT_NE(refusal({"--validation", "some", "--validation-output", path("v.h5")}), "nothing was refused");
  EXPECT_EQ(refusal({"--train-sentencepiece", "300"}), "--train-sentencepiece and --tokenizer-output go together");
  EXPECT_EQ(refusal({"--tokenizer-output", path("t")}), "--train-sentencepiece and --tokenizer-output go together");
  EXPECT_EQ(refusal({"--train-sentencepiece", "300", "--tokenizer-output", path("t"), "--tokenizer", "byte"}),
            "a tokenizer is either given or trained");
  EXPECT_EQ(refusal({"--train-sentencepiece", "7", "--tokenizer-output", path("t")}),
            "the SentencePiece vocabulary is too small");
}

}  // namespace
}  // namespace nibble
