// The header of a tiny model's checkpoint, for tests of saving and loading.
#pragma once

#include <string>
#include <vector>

#include "trainer/manifest.hpp"

namespace nibble::test {

/// With a tokenizer's file where `tokenizer_model` is not empty.
inline CheckpointHeader checkpoint_header(int64_t step, const std::string& tokenizer_model = {}) {
  TokenizerInfo tokenizer = make_byte_tokenizer()->info();
  std::vector<TokenizerFile> files;
  if (!tokenizer_model.empty()) {
    tokenizer.identity = "sentencepiece:test";
    files.push_back({sentencepiece_file_name, tokenizer_model});
  }
  return {.step = step,
          .model = {.vocabulary = 11,
                    .width = 8,
                    .layers = 1,
                    .heads = 2,
                    .kv_heads = 1,
                    .head_dim = 4,
                    .ffn = 12,
                    .context = 32},
          .tokenizer = tokenizer,
          .tokenizer_files = files,
          .config_text = "steps: 1\n"};
}

}  // namespace nibble::test
