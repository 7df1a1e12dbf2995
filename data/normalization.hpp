// Unicode's normalization form C, which Qwen's tokenizers bring text to.
//
// Not for: what is only equivalent (NFKC), which other tokenizers have and Nibble refuses.
#pragma once

#include <string>
#include <string_view>

namespace nibble {

/// Of UTF-8 text. Throws Error{resource} when memory does not suffice.
std::string to_nfc(std::string_view text);

}  // namespace nibble
