// A megabyte of text of all kinds: scripts, contractions, digits, white space, punctuation, marks, emoji, added tokens.
//
// The program that made tests/data/data/tokenizer_json_cases.json draws the same text, and recorded its checksum.
#pragma once

#include <string>

namespace nibble::test {

std::string mixed_unicode(size_t bytes);

}  // namespace nibble::test
