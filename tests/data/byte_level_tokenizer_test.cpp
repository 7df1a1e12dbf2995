#include "data/byte_level_tokenizer.hpp"

#include <gtest/gtest.h>

#include <map>

#include "data/byte_alphabet.hpp"
#include "data/normalization.hpp"
#include "data/token_data.hpp"
#include "data/tokenize.hpp"
#include "tensor/files.hpp"
#include "tests/data/byte_level_file.hpp"
#include "tests/data/mixed_unicode.hpp"

namespace nibble {
namespace {

using nlohmann::json;
using test::byte_level_json, test::byte_level_variant, test::make_byte_level;
using Ids = std::vector<int32_t>;

const json& cases() {
  static const json all = json::parse(read_file(fixture("tokenizer_json_cases.json"), ErrorKind::data));
  return all;
}

/// An independent encoding of one piece: the best of all pairs, again and again.
Ids slow_merges(const std::vector<BytePairMerges::Merge>& merges, Ids ids) {
  std::map<std::pair<int32_t, int32_t>, size_t> ranks;
  for (size_t rank = 0; rank < merges.size(); ++rank) ranks[{merges[rank].left, merges[rank].right}] = rank;
  while (true) {
    size_t best = merges.size(), at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i)
      if (const auto found = ranks.find({ids[i], ids[i + 1]}); found != ranks.end() && found->second < best)
        best = found->second, at = i;
    if (best == merges.size()) return ids;
    ids[at] = merges[best].merged;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

class Variants : public testing::TestWithParam<const char*> {
 protected:
  const json& expected() const { return cases()["variants"][GetParam()]; }
  std::unique_ptr<ByteLevelTokenizer> tokenizer_ = make_byte_level(byte_level_variant(GetParam()));
};

TEST_P(Variants, GivesTheIdsOfThePackage) {
  ASSERT_GT(cases()["texts"].size(), 20u);
  for (size_t i = 0; i < cases()["texts"].size(); ++i) {
    const auto text = cases()["texts"][i].get<std::string>();
    EXPECT_EQ(tokenizer_->encode(text), expected()["ids"][i].get<Ids>()) << text;
  }
}

TEST_P(Variants, GivesTheIdsOfThePackageForAMegabyteOfMixedUnicode) {
  const std::string text = test::mixed_unicode(1'000'000);
  ASSERT_EQ(text.size(), cases()["mixed"]["bytes"]);
  ASSERT_EQ(hex(checksum(bytes_of(text))), cases()["mixed"]["xxh3"]);
  const Ids ids = tokenizer_->encode(text);
  EXPECT_EQ(ids.size(), expected()["mixed_ids"].get<size_t>());
  EXPECT_EQ(hex(checksum(std::as_bytes(std::span(ids)))), expected()["mixed_xxh3"]);
}

INSTANTIATE_TEST_SUITE_P(Files, Variants, testing::Values("llama3", "gpt2", "qwen2", "smollm", "o200k"),
                         [](const auto& parameter) { return std::string(parameter.param); });

TEST(ByteLevelTokenizer, SaysWhatItIs) {
  const auto tokenizer = make_byte_level(byte_level_json());
  EXPECT_EQ(tokenizer->info().identity, "huggingface:test");
  EXPECT_EQ(tokenizer->vocabulary(), 3264);
  EXPECT_EQ(tokenizer->bos(), 3256);
  EXPECT_EQ(tokenizer->eos(), -1);
  EXPECT_EQ(tokenizer->definition().tokens[3256], "<|begin_of_text|>");
  EXPECT_EQ(tokenizer->definition().tokens.size(), 3264u);
  EXPECT_EQ(tokenizer->definition().merges.size(), 3000u);
  EXPECT_EQ(tokenizer->definition().added.size(), 8u);
  EXPECT_EQ(make_byte_level(byte_level_variant("qwen2"))->bos(), -1);
}

TEST(ByteLevelTokenizer, TextComesBackAndSpecialTokensVanish) {
  const auto tokenizer = make_byte_level(byte_level_variant("smollm"));
  std::string text = test::mixed_unicode(20'000);
  const Ids ids = tokenizer->encode(text);
  for (const std::string special : {"<|begin_of_text|>", "<|eot_id|>"})
    for (size_t at; (at = text.find(special)) != std::string::npos;) text.erase(at, special.size());
  EXPECT_EQ(tokenizer->decode(ids), text);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("a<think>b<|eot_id|>c")), "a<think>bc");
}

TEST(ByteLevelTokenizer, TheQueueMergesAsTheSlowRuleDoes) {
  // Without cutting, so that pieces are long.
  json file = byte_level_variant("gpt2");
  file["pre_tokenizer"]["use_regex"] = false;
  const auto tokenizer = make_byte_level(file);
  std::string text = test::mixed_unicode(6000) + std::string(1001, 'a') + std::string(1000, ' ');
  for (char& byte : text)
    if (byte == '<' || byte == '!') byte = '(';  // no added tokens
  Ids bytes;
  for (const char byte : text)
    for (int32_t id = 0; id < 256; ++id)
      if (tokenizer->token_text(id) == std::string(1, byte)) bytes.push_back(id);
  ASSERT_EQ(bytes.size(), text.size());
  const Ids ids = tokenizer->encode(text);
  EXPECT_LT(ids.size(), 6500u);
  EXPECT_EQ(ids, slow_merges(tokenizer->definition().merges, bytes));
}

TEST(ByteLevelTokenizer, MergesAreIgnoredOnlyWhereTheFileSaysSo) {
  json file = byte_level_json();
  file["model"]["merges"] = json::array();
  const auto ids = [&](bool ignore_merges) {
    file["model"]["ignore_merges"] = ignore_merges;
    return make_byte_level(file)->encode("namespace");
  };
  EXPECT_EQ(ids(true), Ids{file["model"]["vocab"]["namespace"].get<int32_t>()});
  EXPECT_EQ(ids(false).size(), 9u);
}

TEST(ByteLevelTokenizer, TheHashIsOfWhatChangesIds) {
  const json file = byte_level_json();
  const uint64_t hash = make_byte_level(file)->info().hash;
  const auto changed = [&](auto&& change) {
    json other = file;
    change(other);
    return make_byte_level(other)->info().hash;
  };
  EXPECT_EQ(changed([](json& other) {
              for (json& merge : other["model"]["merges"])
                merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
              other["truncation"] = 5;
            }),
            hash);
  EXPECT_NE(changed([](json& other) { std::swap(other["model"]["merges"][1], other["model"]["merges"][2]); }), hash);
  EXPECT_NE(changed([](json& other) { other["model"]["ignore_merges"] = false; }), hash);
  EXPECT_NE(changed([](json& other) { other["normalizer"] = {{"type", "NFC"}}; }), hash);
  EXPECT_NE(changed([](json& other) { other["added_tokens"][4]["normalized"] = true; }), hash);
  EXPECT_NE(changed([](json& other) { other["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "a"; }), hash);
}

TEST(ByteLevelTokenizer, EveryByteHasItsCharacter) {
  EXPECT_EQ(byte_character('a'), "a");
  EXPECT_EQ(byte_character(' '), "\u0120");
  EXPECT_EQ(byte_character('\n'), "\u010a");
  EXPECT_EQ(byte_character(0xAD), "\u0143");  // the last of those that are not printable
  std::string all, characters;
  for (int byte = 0; byte < 256; ++byte) {
    all += static_cast<char>(byte);
    characters += byte_character(static_cast<unsigned char>(byte));
  }
  EXPECT_EQ(bytes_of_characters(characters), all);
  for (const char* foreign : {" ", "\u0144", "\u00ad", "\u4e00", "\xC3", "\x80", "a\x7f"})
    EXPECT_EQ(bytes_of_characters(foreign), std::nullopt) << foreign;
}

TEST(ByteLevelTokenizer, InvalidUtf8IsRefused) {
  const auto tokenizer = make_byte_level(byte_level_json());
  EXPECT_EQ(error_of([&] { tokenizer->encode("good \xC3\x28 bad"); }).where, "byte 5 of the text");
}

TEST(Normalization, ComposesWhatCombines) {
  EXPECT_EQ(to_nfc("e\u0301 q\u0307\u0323 \u1112\u1161\u11ab \u212b abc"), "\u00e9 q\u0323\u0307 \ud55c \u00c5 abc");
  EXPECT_EQ(to_nfc("\u00e9\u0130\ufb01"), "\u00e9\u0130\ufb01");  // no compatibility mapping
}

// Folders, shards and what else carries a tokenizer ------------------------------------------------------------------

class TokenizerFolderTest : public TemporaryFolderTest {
 protected:
  void SetUp() override {
    TemporaryFolderTest::SetUp();
    write("llama/tokenizer.json", test::byte_level_text());
    write("llama/tokenizer_config.json",
          R"({"eos_token": {"content": "<|end_of_text|>"}, "pad_token": "<|reserved_special_token_0|>"})");
  }
};

TEST_F(TokenizerFolderTest, AFolderGivesItsTokenizerAndTheConfigurationNamesEos) {
  for (const char* name : {"llama", "llama/tokenizer.json"}) {
    const auto tokenizer = make_tokenizer(path(name));
    EXPECT_EQ(tokenizer->info().identity, "huggingface:llama");
    EXPECT_EQ(tokenizer->bos(), 3256);
    EXPECT_EQ(tokenizer->eos(), 3257);
    EXPECT_EQ(tokenizer->info().pad, 3259);
    ASSERT_EQ(tokenizer->files().size(), 2u);
    EXPECT_EQ(tokenizer->files()[0].contents, test::byte_level_text());
  }
  write("llama/special_tokens_map.json", R"({"eos_token": "<|eot_id|>"})");
  EXPECT_EQ(make_tokenizer(path("llama"))->eos(), 3257);
  write("llama/tokenizer_config.json", R"({"pad_token": null})");
  EXPECT_EQ(make_tokenizer(path("llama"))->eos(), 3258);
  write("llama/tokenizer_config.json", R"({"eos_token": "<|gone|>"})");
  const ErrorDetail error = error_of([&] { make_tokenizer(path("llama")); });
  EXPECT_EQ(error.kind, ErrorKind::data);
  EXPECT_NE(error.where.find("tokenizer_config.json: \"eos_token\""), std::string::npos) << error.where;
}

TEST_F(TokenizerFolderTest, OfTwoTokenizersSentencePieceComesFirstWhereItIsOne) {
  write("llama/tokenizer.model", "IQ== 0\nIg== 1\nIw== 2\nJA== 3\n");  // ranks in base64, as Llama 3's
  EXPECT_EQ(make_tokenizer(path("llama"))->info().identity, "huggingface:llama");
  write("llama/tokenizer.model", contents(fixture("small.model")));
  EXPECT_EQ(make_tokenizer(path("llama"))->info().identity, "sentencepiece:llama");
  write("bad/tokenizer.model", "text");
  write("bad/tokenizer.json", "{}");
  const ErrorDetail error = error_of([&] { make_tokenizer(path("bad")); });
  EXPECT_NE(error.seen.find("tokenizer.model: "), std::string::npos) << error.seen;
  EXPECT_NE(error.seen.find("tokenizer.json: \"model\""), std::string::npos) << error.seen;
  std::filesystem::create_directory(path("empty"));
  EXPECT_EQ(error_of([&] { make_tokenizer(path("empty")); }).what, "the folder holds no tokenizer");
}

TEST_F(TokenizerFolderTest, ATokenShardCarriesIt) {
  const auto tokenizer = make_tokenizer(path("llama"));
  TokenizeOptions options;
  options.inputs = {write("text.txt", "Hello <think> w\u00f6rld\n")};
  options.output = path("tokens.h5");
  options.append_eos = true;
  tokenize(options, *tokenizer);
  const TokenData data = TokenData::open(path("tokens.h5"));
  EXPECT_EQ(data.tokenizer(), tokenizer->info());
  EXPECT_EQ(data.tokenizer_files(), tokenizer->files());
  Ids ids(static_cast<size_t>(data.tokens()));
  data.copy(0, ids);
  EXPECT_EQ(ids.front(), 3256);
  EXPECT_EQ(ids.back(), 3257);
  const auto carried = data.make_tokenizer();
  EXPECT_EQ(carried->info(), tokenizer->info());
  EXPECT_EQ(carried->decode(ids), "Hello <think> w\u00f6rld\n");
}

TEST_F(TokenizerFolderTest, ADocumentCannotEndWithAnEosThatIsNotNamed) {
  std::filesystem::remove(path("llama/tokenizer_config.json"));
  TokenizeOptions options;
  options.inputs = {write("text.txt", "Hello")};
  options.output = path("tokens.h5");
  tokenize(options, *make_tokenizer(path("llama")));
  options.append_eos = true;
  const ErrorDetail error = error_of([&] { tokenize(options, *make_tokenizer(path("llama"))); });
  EXPECT_EQ(error.what, "documents are to end with EOS, and the tokenizer names none");
  options.append_eos = false;
  options.inputs = {write("pairs.jsonl", R"({"prompt": "a", "completion": "b"})")};
  EXPECT_EQ(error_of([&] { tokenize(options, *make_tokenizer(path("llama"))); }).what, error.what);
}

}  // namespace
}  // namespace nibble
