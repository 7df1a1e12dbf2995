// How far the logits of one set of weights are from those of another: what an export says about itself.
//
// Both are pushed through the same model block by block, so that the weights of no more than one block are in memory.
// Not for: losses on files of tokens (evaluation.hpp), or for what a recipe computes: products are fp32.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "tensor/stream.hpp"
#include "trainer/weight_source.hpp"

namespace nibble {

struct LogitDifference {
  double largest = 0;     ///< magnitude of the difference of two logits
  double rms = 0;         ///< root of its mean square over tokens and vocabulary
  double divergence = 0;  ///< mean over the tokens of the Kullback-Leibler divergence from the first's distribution of
                          ///< the next token to the second's, nats
  /// By the name that stands in files.
  std::array<std::pair<std::string, double>, 3> values() const {
    return {{{"nibble.logit_difference.max", largest},
             {"nibble.logit_difference.rms", rms},
             {"nibble.logit_difference.kl", divergence}}};
  }
};

/// Tokens of the batch that is compared on: one sequence, drawn evenly from the vocabulary, always the same.
inline constexpr int64_t compared_tokens = 64;

/// `progress` is told the matrices that were read of either and their number.
LogitDifference compare_logits(Stream& stream, WeightSource& source, WeightSource& exported,
                               const std::function<void(int64_t done, int64_t of)>& progress = {});

}  // namespace nibble
