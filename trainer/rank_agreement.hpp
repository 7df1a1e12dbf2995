// What all ranks must have in common, and what they decide together.
//
// Every rank calls these in the same order.
#pragma once

#include <string>
#include <vector>

#include "comm/world.hpp"
#include "tensor/error.hpp"

namespace nibble {

/// Throws Error{kind} on every rank when a rank's text is not that of most ranks; the message names it and the first
/// line in which it differs. `what` is what went wrong: "the ranks have different configurations".
void require_same(World& world, ErrorKind kind, const std::string& what, const std::string& text,
                  const std::string& next);

/// Every rank's text, by rank.
std::vector<std::string> gather_all(World& world, const std::string& mine);

/// Element by element the largest that any rank has.
std::vector<double> largest_of_all(World& world, const std::vector<double>& mine);

}  // namespace nibble
