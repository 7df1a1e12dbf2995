// Tokens that are found in a text as they stand, before anything else is done to it: <|end_of_text|>, <think> ...
//
// Not for: tokens of merged bytes (byte_pair_merges.hpp).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;     ///< stands for no text: decoding leaves it out
  bool normalized = false;  ///< sought in the normalized text, where no other one was found, else in the text as given

  bool operator==(const AddedToken&) const = default;
};

/// Finds the leftmost, and of several that begin there the longest.
class AddedTokenFinder {
 public:
  struct Match {
    size_t begin = 0, end = 0;
    int32_t id = 0;
  };

  bool empty() const { return nodes_.size() == 1; }
  /// `content` is not empty. Of two with one content the last one counts.
  void add(std::string_view content, int32_t id);
  /// In text[from, end).
  std::optional<Match> find(std::string_view text, size_t from) const;

 private:
  struct Node {  // of a trie
    std::map<char, size_t> next{};
    int32_t id = -1;
  };
  std::vector<Node> nodes_ = std::vector<Node>(1);
  std::string first_bytes_;
};

}  // namespace nibble
