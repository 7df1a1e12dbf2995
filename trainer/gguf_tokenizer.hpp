// Tokenizers as GGUF's keys describe them to llama.cpp.
//
// Not for: the model's own keys (gguf_model.hpp).
#pragma once

#include "data/tokenizer.hpp"
#include "trainer/gguf.hpp"
#include "trainer/huggingface_config.hpp"

namespace nibble {

/// The keys "tokenizer.ggml.*" of a model with so many rows in its embedding; rows beyond the tokenizer are unused
/// tokens. Without a tokenizer llama.cpp loads a model that takes ids only.
///
/// SentencePiece's models of type BPE are llama.cpp's kind "llama". So are bytes: each is a byte token, which llama.cpp
/// falls back to where no other token fits; but before it looks, it replaces spaces by U+2581, so that this character's
/// name is that of the token of a space. Every UTF-8 text has the ids that it has here, but one that holds U+2581
/// itself.
///
/// Byte-level BPE is llama.cpp's kind "gpt2", which cuts text as its name for the expression says: "llama-bpe",
/// "qwen2", "gpt-2" (src/llama-vocab.cpp). It does not normalise: where tokenizer.json asks for NFC, texts in NFC have
/// the ids that they have here.
///
/// Throws Error{configuration} for what llama.cpp tokenizes otherwise: SentencePiece models of another type, or with
/// normalisation; byte-level BPE with other expressions; and for tokenizers with more tokens than rows.
GgufMetadata gguf_tokenizer(const Tokenizer* tokenizer, int64_t vocabulary, const SpecialTokens& tokens);

}  // namespace nibble
