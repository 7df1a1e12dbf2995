// A regular expression that cuts text into the pieces within which bytes are merged: GPT-2's, Llama 3's, Qwen's.
//
// The expressions of tokenizer.json are written for Oniguruma, and PCRE2 matches them. What the two read in different
// ways (\s, \v, \uHHHH) is translated, and where that is not done (\w, ^, sets within sets, scripts ...) refused.
// Letters, numbers and case are those of PCRE2's Unicode version: 14 in PCRE2 10.42.
// Not for: merging (byte_pair_merges.hpp) and not for regular expressions in general.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace nibble {

/// Immutable after construction; several threads may search at once.
class SplitPattern {
 public:
  struct Match {
    size_t begin = 0, end = 0;  ///< never empty
  };

  /// `where` stands in errors. Throws Error{data} for an expression that is damaged, may match nothing, or has what is
  /// not translated.
  SplitPattern(std::string_view expression, std::string where);

  /// The first match in text[from, end); look-behind sees what is before `from`. The text is UTF-8, `from` lies between
  /// its characters. Throws Error{data} when the search takes more steps than PCRE2 allows.
  std::optional<Match> find(std::string_view text, size_t from) const;

  /// An expression for the text itself.
  static std::string literal(std::string_view text);

 private:
  std::string where_;
  std::shared_ptr<void> code_;  ///< pcre2_code: its header stays in one file
};

}  // namespace nibble
