// The nearest valid word to one that was mistyped.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

/// Insertions, deletions, substitutions and swaps of neighbours that turn one word into the other
/// (optimal string alignment distance).
int edit_distance(std::string_view a, std::string_view b);

/// The word nearest to `word`, or an empty text where none is near: more than a third of its letters, and at least two,
/// would have to change. Among equals the first.
std::string nearest(std::string_view word, std::span<const std::string> words);

}  // namespace nibble
