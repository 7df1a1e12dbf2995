#include "data/normalization.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "tensor/error.hpp"

namespace nibble {

std::string to_nfc(std::string_view text) {
  // Nothing below U+0300 combines, or decomposes for good; 0xCC is the first byte of U+0300.
  if (std::ranges::all_of(text, [](char byte) { return static_cast<unsigned char>(byte) < 0xCC; }))
    return std::string(text);
  utf8proc_uint8_t* composed = nullptr;
  const utf8proc_ssize_t length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &composed, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(composed, std::free);
  if (length < 0)
    throw Error({.kind = ErrorKind::resource,
                 .what = "cannot normalize the text",
                 .seen = utf8proc_errmsg(length),
                 .next = "cut the text into smaller documents with --split-documents 64KiB"});
  return std::string(reinterpret_cast<const char*>(composed), static_cast<size_t>(length));
}

}  // namespace nibble
