#include "data/added_tokens.hpp"

namespace nibble {

void AddedTokenFinder::add(std::string_view content, int32_t id) {
  if (first_bytes_.find(content[0]) == std::string::npos) first_bytes_ += content[0];
  size_t node = 0;
  for (const char byte : content) {
    const auto [found, is_new] = nodes_[node].next.try_emplace(byte, nodes_.size());
    node = found->second;
    if (is_new) nodes_.emplace_back();
  }
  nodes_[node].id = id;
}

std::optional<AddedTokenFinder::Match> AddedTokenFinder::find(std::string_view text, size_t from) const {
  for (size_t begin = text.find_first_of(first_bytes_, from); begin != std::string_view::npos;
       begin = text.find_first_of(first_bytes_, begin + 1)) {
    std::optional<Match> longest;
    size_t node = 0;
    for (size_t end = begin; end < text.size();) {
      const auto next = nodes_[node].next.find(text[end]);
      if (next == nodes_[node].next.end()) break;
      node = next->second;
      ++end;
      if (nodes_[node].id >= 0) longest = Match{begin, end, nodes_[node].id};
    }
    if (longest) return longest;
  }
  return std::nullopt;
}

}  // namespace nibble
