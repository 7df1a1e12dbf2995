// Mutations of a corpus: input `seed` is a pure function of the corpus and the seed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace nibble::fuzz {

/// One of the files after one to eight edits: bits, bytes and numbers changed, pieces lost, doubled, or taken from
/// another file.
std::string mutate(const std::vector<std::string>& corpus, uint64_t seed);

}  // namespace nibble::fuzz
