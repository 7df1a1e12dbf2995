// What of a tokenizer.json is refused, and by which key.
#include "data/tokenizer_json.hpp"

#include <gtest/gtest.h>

#include "data/split_pattern.hpp"
#include "tests/data/byte_level_file.hpp"

namespace nibble {
namespace {

using nlohmann::json;

template <class Change>
ErrorDetail refused(Change&& change) {
  json file = test::byte_level_json();
  change(file);
  return error_of([&] { parse_tokenizer_json(file.dump(), "tokenizer.json"); });
}

/// That a file so changed is refused at the place.
template <class Change>
void expect_refused(const std::string& where, Change&& change) {
  const ErrorDetail error = refused(change);
  EXPECT_EQ(error.kind, ErrorKind::data);
  EXPECT_EQ(error.where, "tokenizer.json: " + where) << error.what;
  EXPECT_FALSE(error.seen.empty() || error.allowed.empty() || error.next.empty()) << error.what;
}

TEST(TokenizerJson, OtherKindsOfTokenizersAreRefusedByTheirKey) {
  expect_refused("model: \"type\"", [](json& file) { file["model"]["type"] = "Unigram"; });
  expect_refused("model: \"type\"", [](json& file) { file["model"]["type"] = "WordPiece"; });
  expect_refused("model: \"dropout\"", [](json& file) { file["model"]["dropout"] = 0.1; });
  expect_refused("model: \"continuing_subword_prefix\"",
                 [](json& file) { file["model"]["continuing_subword_prefix"] = "##"; });
  expect_refused("model: \"end_of_word_suffix\"", [](json& file) { file["model"]["end_of_word_suffix"] = "</w>"; });
  expect_refused("normalizer: \"type\"", [](json& file) { file["normalizer"] = {{"type", "NFKC"}}; });
  expect_refused("normalizer: normalizers: \"type\"", [](json& file) {
    file["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "Prepend"}, {"prepend", "_"}}}}};
  });
  expect_refused("pre_tokenizer: \"type\"", [](json& file) { file["pre_tokenizer"] = {{"type", "Metaspace"}}; });
  expect_refused("\"pre_tokenizer\"", [](json& file) { file["pre_tokenizer"] = nullptr; });
  expect_refused("\"pre_tokenizer\"", [](json& file) { file["pre_tokenizer"]["pretokenizers"].erase(1); });
  expect_refused("pre_tokenizer: pretokenizers: \"type\"", [](json& file) {
    std::swap(file["pre_tokenizer"]["pretokenizers"][0], file["pre_tokenizer"]["pretokenizers"][1]);
  });
  expect_refused("pre_tokenizer: pretokenizers: \"behavior\"",
                 [](json& file) { file["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "MergedWithNext"; });
  expect_refused("pre_tokenizer: pretokenizers: \"add_prefix_space\"",
                 [](json& file) { file["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true; });
  expect_refused("post_processor: \"type\"", [](json& file) { file["post_processor"] = {{"type", "BertProcessing"}}; });
  expect_refused("decoder: \"type\"", [](json& file) { file["decoder"] = {{"type", "WordPiece"}}; });
}

TEST(TokenizerJson, ContradictionsAreRefused) {
  expect_refused("model: vocab", [](json& file) { file["model"]["vocab"].erase("\u0120"); });
  expect_refused("model: vocab: \"b\"", [](json& file) { file["model"]["vocab"]["b"] = file["model"]["vocab"]["a"]; });
  expect_refused("model: vocab: \"b\"", [](json& file) { file["model"]["vocab"]["b"] = 1 << 30; });
  expect_refused("model: vocab: \"b\"", [](json& file) { file["model"]["vocab"]["b"] = -1; });
  for (const json& merge : {json("a b c"), json("ab"), json("a  b"), json({"a"}), json({"a", 1}), json({"a", ""}),
                            json({"\u0120", "\u4e00"}), json({"q", "~"})})
    expect_refused("model: merges: 7", [&](json& file) { file["model"]["merges"][7] = merge; });
  expect_refused("added_tokens: \"id\"", [](json& file) { file["added_tokens"][0]["id"] = 5; });
  expect_refused("added_tokens: \"id\"", [](json& file) { file["model"]["vocab"]["<|eot_id|>"] = 4000; });
  expect_refused("added_tokens: \"content\"", [](json& file) { file["added_tokens"][0]["content"] = ""; });
  expect_refused("added_tokens: \"lstrip\"", [](json& file) { file["added_tokens"][0]["lstrip"] = true; });
  expect_refused("added_tokens: \"single_word\"", [](json& file) { file["added_tokens"][0]["single_word"] = true; });
  const auto of_template = [](json& file) -> json& { return file["post_processor"]["processors"][1]; };
  expect_refused("post_processor: processors: \"single\"", [&](json& file) {
    json& single = of_template(file)["single"];
    single.insert(single.begin(), single[0]);
  });
  expect_refused("post_processor: processors: special_tokens: <|begin_of_text|>: \"ids\"",
                 [&](json& file) { of_template(file)["special_tokens"]["<|begin_of_text|>"]["ids"] = {99999}; });
  EXPECT_EQ(error_of([] { parse_tokenizer_json("{", "tokenizer.json"); }).what, "not valid JSON");
}

TEST(TokenizerJson, ATemplateMayPutATokenBehindTheText) {
  json file = test::byte_level_json();
  json& single = file["post_processor"]["processors"][1]["single"];
  std::swap(single[0], single[1]);
  const TokenizerJson read = parse_tokenizer_json(file.dump(), "tokenizer.json");
  EXPECT_EQ(read.before, std::nullopt);
  EXPECT_EQ(read.after, 3256);
}

// Expressions --------------------------------------------------------------------------------------------------------

/// The pieces that an expression finds.
std::vector<std::string> pieces(std::string_view expression, const std::string& text) {
  const SplitPattern pattern(expression, "here");
  std::vector<std::string> found;
  size_t from = 0;
  while (const auto match = pattern.find(text, from)) {
    found.push_back(text.substr(match->begin, match->end - match->begin));
    from = match->end;
  }
  return found;
}

TEST(SplitPattern, WhiteSpaceIsUnicodes) {
  using Pieces = std::vector<std::string>;
  // U+180E is white space to PCRE2, not to Unicode; U+200B to neither.
  EXPECT_EQ(pieces(R"(\s+|\S+)", "a\u00a0\u3000\xC2\x85\v b\u180e\u200b"),
            (Pieces{"a", "\u00a0\u3000\xC2\x85\v ", "b\u180e\u200b"}));
  EXPECT_EQ(pieces(R"([^\sx]+)", "ab\u2028cxd\u180e"), (Pieces{"ab", "c", "d\u180e"}));
  EXPECT_EQ(pieces(R"(\s+(?!\S)|\s+)", "a   b  "), (Pieces{"  ", " ", "  "}));
  EXPECT_EQ(pieces(R"(\d+|\v)", "1\u0662x\v\n"), (Pieces{"1\u0662", "\v"}));
  EXPECT_EQ(pieces(R"(\u0061|\x62|\x{1F999}|.b)", "ab\U0001F999\nb"), (Pieces{"a", "b", "\U0001F999", "b"}));
  EXPECT_EQ(pieces(SplitPattern::literal("a.b["), "axb[a.b["), Pieces{"a.b["});
}

TEST(SplitPattern, WhatTwoEnginesReadInTwoWaysIsRefused) {
  for (const char* expression :
       {"^a",        "a$",          R"(\w+)",  R"(\bx)", R"(\h)", R"(\R)",    R"(\p{Han})",     R"(\pL)",
        R"(\p{^L})", "[[:alpha:]]", "[a&&b]",  "[]a]",   "[^]a]", R"([\Sa])", "(?<name>a)",     "(*UCP)a",
        "(?x:a)",    "(?i)a",       "a{1,3}+", "a{,3}",  R"(\)",  R"(\x{})",  R"(\x{1234567})", R"(\u12)",
        R"(\p{)"}) {
    const ErrorDetail error = error_of([&] { SplitPattern(expression, "here"); });
    EXPECT_EQ(error.what, "the regular expression has a construct that Nibble does not translate") << expression;
    EXPECT_EQ(error.kind, ErrorKind::data);
  }
  for (const char* damaged : {"(a", "[a", "a)", "*a", "a{3,1}"})
    EXPECT_EQ(error_of([&] { SplitPattern(damaged, "here"); }).what, "the regular expression cannot be compiled");
  for (const char* nothing : {"a*", "", "(?=a)", "a|"})
    EXPECT_EQ(error_of([&] { SplitPattern(nothing, "here"); }).what, "the regular expression may match nothing");
  EXPECT_EQ(error_of([] { SplitPattern(std::string(1 << 15, 'a'), "here"); }).what,
            "the regular expression is too long");
}

TEST(SplitPattern, ASearchThatDoesNotEndIsRefused) {
  const SplitPattern pattern("(?:a+)+[bc]", "here");
  EXPECT_EQ(error_of([&] { pattern.find(std::string(200, 'a'), 0); }).what,
            "the regular expression's search does not end");
}

}  // namespace
}  // namespace nibble
