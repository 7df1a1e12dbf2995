// GPT-2's alphabet for bytes: each byte is one printable character, so that tokens of any bytes can stand in JSON.
//
// Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), encoder.py: the printable characters of
// Latin-1 are themselves; the other 68 bytes are U+0100, U+0101 ... in their order.
// Not for: merging bytes to tokens (byte_pair_merges.hpp).
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace nibble {

/// The character of a byte, UTF-8.
const std::string& byte_character(unsigned char byte);

/// The bytes that a text of such characters stands for; none when a character is not of the alphabet.
std::optional<std::string> bytes_of_characters(std::string_view text);

}  // namespace nibble
