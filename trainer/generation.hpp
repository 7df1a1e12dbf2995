// Text from a model: sampling token by token.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "data/tokenizer.hpp"
#include "model/decoder.hpp"

namespace nibble {

struct SamplingOptions {
  int64_t tokens = 200;      ///< at most so many new ones
  double temperature = 0.8;  ///< 0: the most likely token
  double top_p = 1;          ///< only the most likely tokens whose probabilities add up to this much
  uint64_t seed = 1;
};

/// The token that follows, drawn from softmax(logits / temperature) by the random number of `position`: the same seed
/// and logits give the same token. Ties go to the lower id. `top_p` in (0, 1].
/// Throws Error{numerics} when a logit is not finite.
int32_t sample(std::span<const float> logits, const SamplingOptions& options, int64_t position);

/// Text after `prompt` (BOS stands before it where the tokenizer has one), until `end_ids`, options.tokens, or the
/// decoder's capacity. `print` receives each piece as soon as it is complete UTF-8; what is no UTF-8 becomes U+FFFD.
/// Returns the number of tokens.
int64_t generate(Decoder& decoder, const Tokenizer& tokenizer, std::string_view prompt,
                 std::span<const int64_t> end_ids, const SamplingOptions& options,
                 const std::function<void(std::string_view)>& print);

}  // namespace nibble
