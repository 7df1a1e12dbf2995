#include "trainer/gguf_tokenizer.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "data/byte_level_tokenizer.hpp"
#include "data/sentencepiece_model.hpp"

namespace nibble {
namespace {

using Piece = SentencePieceModel::Piece;  // its types have the numbers of enum llama_token_type

/// A tokenizer as llama.cpp knows it.
struct Vocabulary {
  std::string model = "llama", cut_as = "default";  ///< tokenizer.ggml.model and .pre
  std::vector<Piece> pieces{};                      ///< by id
  std::vector<std::string> merges{};                ///< of "gpt2", by rank
  bool leading_space = false;
};

[[noreturn]] void refuse(const Tokenizer& tokenizer, const char* kind, const std::string& seen,
                         const std::string& allowed) {
  throw Error({.kind = ErrorKind::configuration,
               .what = fmt::format("llama.cpp has no tokenizer that gives the ids of this {}", kind),
               .where = tokenizer.info().identity,
               .seen = seen,
               .allowed = allowed,
               .next = "export with --format safetensors"});
}

std::vector<Piece> byte_pieces(const Tokenizer& tokenizer) {
  std::vector<Piece> pieces;
  for (int byte = 0; byte < 256; ++byte)
    pieces.push_back(byte == ' ' ? Piece{"\xE2\x96\x81", 0, SentencePieceModel::normal}
                                 : Piece{fmt::format("<0x{:02X}>", byte), 0, SentencePieceModel::byte});
  for (int32_t id = 256; id < tokenizer.vocabulary(); ++id) {
    const char* const name = id == tokenizer.bos() ? "<s>" : id == tokenizer.eos() ? "</s>" : "<pad>";
    pieces.push_back({name, 0, SentencePieceModel::control});
  }
  return pieces;
}

Vocabulary sentencepiece_vocabulary(const Tokenizer& tokenizer) {
  SentencePieceModel model = parse_sentencepiece_model(tokenizer.files().front().contents);
  std::string seen;
  if (!model.is_bpe) seen = "a model of another type than BPE";
  else if (model.normalizes) seen = "a model that normalises characters";
  else if (model.removes_extra_spaces) seen = "a model that removes spaces";
  if (!seen.empty())
    refuse(tokenizer, "SentencePiece model", seen,
           "BPE without normalisation, as Llama 2's and those that nibble trains");
  return {.pieces = std::move(model.pieces), .leading_space = model.adds_leading_space};
}

/// Expressions that llama.cpp knows by a name, and what it does with a piece that is a token.
struct ByteLevelKind {
  const char *name, *expression;
  bool ignores_merges;
};
const ByteLevelKind byte_level_kinds[] = {
    {"llama-bpe",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     true},
    {"qwen2",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     false},
    {"gpt-2", gpt2_expression, false},
};

Vocabulary byte_level_vocabulary(const ByteLevelTokenizer& tokenizer) {
  const TokenizerJson& json = tokenizer.definition();
  const auto kind = std::ranges::find_if(byte_level_kinds, [&](const ByteLevelKind& one) {
    return json.splits == std::vector<TokenizerSplit>{{.expression = one.expression}} &&
           json.ignore_merges == one.ignores_merges;
  });
  if (kind == std::end(byte_level_kinds))
    refuse(tokenizer, "tokenizer.json",
           json.splits.empty() ? "no expression"
                               : fmt::format("{} expressions, the first {}, ignore_merges {}", json.splits.size(),
                                             json.splits.front().expression, json.ignore_merges),
           "what Llama 3, Qwen2 or GPT-2 have");
  Vocabulary vocabulary{.model = "gpt2", .cut_as = kind->name};
  for (const std::string& token : json.tokens)
    vocabulary.pieces.push_back({token, 0, token.empty() ? SentencePieceModel::unused : SentencePieceModel::normal});
  for (const AddedToken& added : json.added)
    vocabulary.pieces[static_cast<size_t>(added.id)].type =
        added.special ? SentencePieceModel::control : SentencePieceModel::user_defined;
  for (const BytePairMerges::Merge& merge : json.merges)
    vocabulary.merges.push_back(json.tokens[static_cast<size_t>(merge.left)] + " " +
                                json.tokens[static_cast<size_t>(merge.right)]);
  return vocabulary;
}

GgufMetadata no_tokenizer() { return {{"tokenizer.ggml.model", std::string("none")}}; }

}  // namespace

GgufMetadata gguf_tokenizer(const Tokenizer* tokenizer, int64_t vocabulary, const SpecialTokens& tokens) {
  if (!tokenizer) return no_tokenizer();
  Vocabulary described;
  if (tokenizer->info().identity == "byte") described.pieces = byte_pieces(*tokenizer);
  else if (tokenizer->info().is_sentencepiece()) described = sentencepiece_vocabulary(*tokenizer);
  else if (const auto* byte_level = dynamic_cast<const ByteLevelTokenizer*>(tokenizer))
    described = byte_level_vocabulary(*byte_level);
  else return no_tokenizer();
  // llama.cpp takes the embedding's rows from the number of tokens, and wants each to have a name of its own.
  std::vector<Piece>& pieces = described.pieces;
  if (std::ssize(pieces) > vocabulary)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "the tokenizer has more tokens than the embedding rows, which llama.cpp does not load",
                 .where = tokenizer->info().identity,
                 .seen = fmt::format("{} tokens", pieces.size()),
                 .allowed = fmt::format("at most {}", vocabulary),
                 .next = "export with --format safetensors"});
  for (int64_t id = std::ssize(pieces); id < vocabulary; ++id) pieces.push_back({{}, 0, SentencePieceModel::unused});
  for (size_t id = 0; id < pieces.size(); ++id)
    if (pieces[id].text.empty()) pieces[id].text = fmt::format("[PAD{}]", id);

  std::vector<std::string> texts;
  std::vector<float> scores;
  std::vector<int32_t> types;
  for (Piece& piece : pieces) {
    texts.push_back(std::move(piece.text));
    scores.push_back(piece.score);
    types.push_back(piece.type);
  }
  GgufMetadata metadata = {{"tokenizer.ggml.model", described.model},
                           {"tokenizer.ggml.pre", described.cut_as},
                           {"tokenizer.ggml.tokens", std::move(texts)},
                           {"tokenizer.ggml.scores", std::move(scores)},
                           {"tokenizer.ggml.token_type", types}};
  if (!described.merges.empty()) metadata.emplace_back("tokenizer.ggml.merges", std::move(described.merges));
  const auto special = [&](const char* key, int64_t id) {
    if (id >= 0) metadata.emplace_back(key, static_cast<uint32_t>(id));
  };
  special("tokenizer.ggml.bos_token_id", tokens.begin.value_or(tokenizer->bos()));
  special("tokenizer.ggml.eos_token_id", tokens.ends.empty() ? tokenizer->eos() : tokens.ends.front());
  for (size_t id = 0; id < types.size(); ++id)
    if (types[id] == SentencePieceModel::unknown) special("tokenizer.ggml.unknown_token_id", static_cast<int64_t>(id));
  special("tokenizer.ggml.padding_token_id", tokenizer->info().pad);
  metadata.emplace_back("tokenizer.ggml.add_bos_token", tokenizer->bos() >= 0);
  metadata.emplace_back("tokenizer.ggml.add_eos_token", false);
  metadata.emplace_back("tokenizer.ggml.add_space_prefix", described.leading_space);
  return metadata;
}

}  // namespace nibble
