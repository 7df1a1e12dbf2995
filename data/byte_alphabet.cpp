#include "data/byte_alphabet.hpp"

#include <array>

namespace nibble {
namespace {

constexpr int last_code_point = 0x143;  // 0x100 + 68 - 1

struct Alphabet {
  std::array<std::string, 256> characters;
  std::array<int, last_code_point + 1> bytes;  ///< by code point; -1: none
};

Alphabet make_alphabet() {
  Alphabet alphabet;
  alphabet.bytes.fill(-1);
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const int code_point = printable ? byte : next++;
    std::string& character = alphabet.characters[static_cast<size_t>(byte)];
    if (code_point < 0x80) character = static_cast<char>(code_point);
    else character = {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
    alphabet.bytes[static_cast<size_t>(code_point)] = byte;
  }
  return alphabet;
}

const Alphabet& alphabet() {
  static const Alphabet made = make_alphabet();
  return made;
}

}  // namespace

const std::string& byte_character(unsigned char byte) { return alphabet().characters[byte]; }

std::optional<std::string> bytes_of_characters(std::string_view text) {
  std::string bytes;
  for (size_t i = 0; i < text.size();) {
    int code_point = static_cast<unsigned char>(text[i++]);
    if (code_point >= 0x80) {
      if (code_point < 0xC2 || code_point > 0xC5 || i == text.size()) return std::nullopt;
      code_point = (code_point & 0x1F) << 6 | (static_cast<unsigned char>(text[i++]) & 0x3F);
    }
    const int byte = code_point <= last_code_point ? alphabet().bytes[static_cast<size_t>(code_point)] : -1;
    if (byte < 0) return std::nullopt;
    bytes += static_cast<char>(byte);
  }
  return bytes;
}

}  // namespace nibble
