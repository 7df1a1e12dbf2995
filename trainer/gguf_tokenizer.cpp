#include "trainer/gguf_tokenizer.hpp"

#include <fmt/format.h>

#include "data/sentencepiece_model.hpp"

namespace nibble {
namespace {

using Piece = SentencePieceModel::Piece;  // its types have the numbers of enum llama_token_type

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

std::vector<Piece> sentencepiece_pieces(const Tokenizer& tokenizer, bool& leading_space) {
  SentencePieceModel model = parse_sentencepiece_model(tokenizer.files().front().contents);
  std::string seen;
  if (!model.is_bpe) seen = "a model of another type than BPE";
  else if (model.normalizes) seen = "a model that normalises characters";
  else if (model.removes_extra_spaces) seen = "a model that removes spaces";
  if (!seen.empty())
    throw Error({.kind = ErrorKind::configuration,
                 .what = "llama.cpp has no tokenizer that gives the ids of this SentencePiece model",
                 .where = tokenizer.info().identity,
                 .seen = seen,
                 .allowed = "BPE without normalisation, as Llama 2's and those that nibble trains",
                 .next = "export with --format safetensors"});
  leading_space = model.adds_leading_space;
  return std::move(model.pieces);
}

GgufMetadata no_tokenizer() { return {{"tokenizer.ggml.model", std::string("none")}}; }

}  // namespace

GgufMetadata gguf_tokenizer(const Tokenizer* tokenizer, int64_t vocabulary, const SpecialTokens& tokens) {
  if (!tokenizer) return no_tokenizer();
  bool leading_space = false;
  std::vector<Piece> pieces;
  if (tokenizer->info().identity == "byte") pieces = byte_pieces(*tokenizer);
  else if (tokenizer->info().is_sentencepiece()) pieces = sentencepiece_pieces(*tokenizer, leading_space);
  else return no_tokenizer();
  // llama.cpp takes the embedding's rows from the number of tokens.
  for (int64_t id = std::ssize(pieces); id < vocabulary; ++id)
    pieces.push_back({fmt::format("[PAD{}]", id), 0, SentencePieceModel::unused});

  std::vector<std::string> texts;
  std::vector<float> scores;
  std::vector<int32_t> types;
  for (Piece& piece : pieces) {
    texts.push_back(std::move(piece.text));
    scores.push_back(piece.score);
    types.push_back(piece.type);
  }
  GgufMetadata metadata = {{"tokenizer.ggml.model", std::string("llama")},
                           {"tokenizer.ggml.pre", std::string("default")},
                           {"tokenizer.ggml.tokens", std::move(texts)},
                           {"tokenizer.ggml.scores", std::move(scores)},
                           {"tokenizer.ggml.token_type", types}};
  const auto special = [&](const char* key, int64_t id) {
    if (id >= 0) metadata.emplace_back(key, static_cast<uint32_t>(id));
  };
  special("tokenizer.ggml.bos_token_id", tokens.begin.value_or(tokenizer->bos()));
  special("tokenizer.ggml.eos_token_id", tokens.ends.empty() ? tokenizer->eos() : tokens.ends.front());
  for (size_t id = 0; id < types.size(); ++id)
    if (types[id] == SentencePieceModel::unknown) special("tokenizer.ggml.unknown_token_id", static_cast<int64_t>(id));
  special("tokenizer.ggml.padding_token_id", tokenizer->info().pad);
  metadata.emplace_back("tokenizer.ggml.add_bos_token", true);
  metadata.emplace_back("tokenizer.ggml.add_eos_token", false);
  metadata.emplace_back("tokenizer.ggml.add_space_prefix", leading_space);
  return metadata;
}

}  // namespace nibble
