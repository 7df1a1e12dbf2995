// A language that is made up from a seed and whose entropy is known exactly: a mixture transition distribution.
//
// Tokens are sorted by frequency into octaves: ranks [1, 2), [2, 4), [4, 8) ... Each next token has
//   an octave, drawn by Zipf's law whatever came before, and a place in it: with probability 1 - noise the one that the
//   token g back speaks for, each g of 1 to `order` alike; else any.
// What token t, g back, speaks for is a hash of (g, t, octave) by Philox, so that tables of any size cost nothing. The
// places of an octave are dealt out to the g in turn, and only its own can be spoken for: so tokens at different g never
// speak for one place.
//
// Entropy. In an octave of probability P with s places, of which c = min(order, s) have a g that may speak for them
// (c = 0 where s = 1: there is nothing to say), let w = (1 - noise) / order and n = 1 - c w. Whatever came before, c
// different places have the probability P (w + n / s) and the other s - c have P n / s. So the multiset of the next
// token's probabilities is the same after every context, and with it the entropy,
//   H = sum over octaves of -P ln P + P (c h(w + n / s) + (s - c) h(n / s)),  h(x) = -x ln x.
// That is of every token of every window, its first ones too: tokens that a window lacks count as one of their own. By
// the chain rule H is the entropy rate, and no stationary distribution is needed. It is also the least loss of any
// model, for a window's tokens depend on nothing but those before them in the window.
//
// Frequencies. An octave's is exactly Zipf's, and a token has at least the share n of its octave's mean; so in order of
// their frequencies, the r-th is at least n times the law's. What frequent tokens speak for is raised.
//
// Raftery, "A model for high-order Markov chains", J. R. Stat. Soc. B 47 (1985), with lags alike and sparse random
// rows. A context of g tokens as such has a plateau, where nothing beyond the last token is learned; here what each
// position tells is added to what the others tell, so that attention can fetch it. There are order x vocabulary x
// octaves facts to learn, whose frequencies are products of Zipf's: the setting in which learning curves become power
// laws, of data as the tail is seen, of parameters as it is stored (Hutter, arXiv 2102.04074; Michaud et al., arXiv
// 2303.13506; Cabannes et al., arXiv 2310.02984). Not for: windows and batches (synthetic_windows.hpp); text, of which
// it has none.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tensor/random.hpp"

namespace nibble {

struct SyntheticOptions {
  int64_t vocabulary = 0;  ///< 2 to 65536
  int64_t order = 0;       ///< how far back tokens speak: 1 to 8
  double zipf = 0;         ///< a token's frequency falls with its rank to this power; 0: all are equal
  double noise = 0;        ///< probability of any place in its octave, in [0, 1]
  uint64_t seed = 0;

  static constexpr int64_t most_tokens = 65536, longest_context = 8;
  static constexpr double steepest = 4;
};

class SyntheticLanguage {
 public:
  /// Throws Error{configuration} for options out of their ranges.
  explicit SyntheticLanguage(const SyntheticOptions& options);

  const SyntheticOptions& options() const { return options_; }
  /// Nats per token, given all tokens before it in its window: the least loss that a model can have.
  double entropy() const { return entropy_; }
  /// Nats per token, given nothing but Zipf's law by octaves: about what a model learns at once.
  double frequency_entropy() const { return frequency_entropy_; }
  /// "vocabulary 1024, order 2, ...": equal texts are equal languages.
  std::string describe() const;

  /// Natural logarithm of the probability of `token` behind `before`, all tokens of the window so far.
  double log_probability(std::span<const int32_t> before, int32_t token) const;
  /// The next token, by the random numbers of `draw`.
  int32_t next(std::span<const int32_t> before, const PhiloxBlock& draw) const;

 private:
  struct Octave {
    int32_t first = 0, size = 0;  ///< tokens [first, first + size)
    int32_t speakers = 0;         ///< g of 1 to this have a place to speak for
    double probability = 0;
    double noise = 0;  ///< probability of any place
  };

  size_t octave_of(int32_t token) const;
  /// The place in `octave` that the token `back` before the next one speaks for.
  int32_t place(std::span<const int32_t> before, size_t octave, int32_t back) const;

  SyntheticOptions options_;
  std::vector<Octave> octaves_;
  double weight_ = 0;  ///< of each token that speaks
  double entropy_ = 0, frequency_entropy_ = 0;
};

}  // namespace nibble
