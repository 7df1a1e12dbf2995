// The header of a tiny model's checkpoint, for tests of saving and loading.
#pragma once

#include <string>

#include "trainer/manifest.hpp"

namespace nibble::test {

inline CheckpointHeader checkpoint_header(int64_t step, const std::string& tokenizer_model = {}) {
  return {.step = step,
          .model = {.vocabulary = 11,
                    .width = 8,
                    .layers = 1,
                    .heads = 2,
                    .kv_heads = 1,
                    .head_dim = 4,
                    .ffn = 12,
                    .context = 32},
          .tokenizer = make_byte_tokenizer()->info(),
          .tokenizer_model = tokenizer_model,
          .config_text = "steps: 1\n"};
}

}  // namespace nibble::test
