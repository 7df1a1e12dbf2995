#include "tests/data/mixed_unicode.hpp"

#include <cstdint>
#include <span>
#include <string_view>

namespace nibble::test {
namespace {

struct Range {
  uint32_t first, last;
};
constexpr Range scripts[] = {
    {0x41, 0x5A},     {0x61, 0x7A},       {0x61, 0x7A},      {0xC0, 0x24F},    {0x370, 0x3FF},   {0x400, 0x52F},
    {0x591, 0x5F4},   {0x600, 0x6FF},     {0x900, 0x97F},    {0xE01, 0xE5B},   {0x10A0, 0x10FF}, {0x1100, 0x11FF},
    {0x1200, 0x137F}, {0x1E00, 0x1FFF},   {0x2070, 0x218F},  {0x3041, 0x30FF}, {0x4E00, 0x9FFF}, {0xAC00, 0xD7A3},
    {0xFB00, 0xFDFF}, {0x1D400, 0x1D7FF}, {0x1F300, 0x1FAFF}};
// Of the planes above the first, what Unicode 13 has.
constexpr Range planes[] = {{0x10000, 0x100FF}, {0x12000, 0x123FF}, {0x13000, 0x1342E},
                            {0x1D100, 0x1D1FF}, {0x1E900, 0x1E95F}, {0x1F000, 0x1F64F},
                            {0x20000, 0x2A6DF}, {0xE0000, 0xE01FF}, {0x100000, 0x10FFFD}};
constexpr const char* words[] = {"the",
                                 "of",
                                 "namespace",
                                 "return",
                                 "include",
                                 "don't",
                                 "I'LL",
                                 "we've",
                                 "THEY'RE",
                                 "it's",
                                 "'s",
                                 "'S",
                                 "o'clock",
                                 "fünf",
                                 "naïve",
                                 "café",
                                 "café!",
                                 "façade",
                                 "Straße",
                                 "\u02bcn",
                                 "'ſ",
                                 "x'D",
                                 "can'T",
                                 "12th",
                                 "3.14",
                                 "0x1F",
                                 "a_b",
                                 "std::vector<int>",
                                 "https://example.org/a?b=c#d",
                                 "...",
                                 "?!",
                                 "--",
                                 "/*",
                                 "*/",
                                 "//",
                                 "<|eot_id|>",
                                 "<|begin_of_text|>",
                                 "<|end_of_te",
                                 "<think>",
                                 "<tool>",
                                 "<tool>x",
                                 "<tool>xy"};
constexpr const char* spaces[] = {" ",      " ",      "  ",       "   ",    "\n",     "\n\n",   "\r\n", "\t", "\u00a0",
                                  "\u2003", "\u3000", "\xC2\x85", "\u180e", "\u200b", "\u2028", "\v",   "\f", "\r"};
constexpr std::string_view punctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";
constexpr uint32_t zeros[] = {0x30, 0x30, 0x30, 0x660, 0x966};  // ASCII, Arabic, Devanagari

/// Knuth's MMIX generator: a draw is two lines in any language.
class Draws {
 public:
  uint32_t below(size_t n) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>((state_ >> 33) % n);
  }
  uint32_t from(Range range) { return range.first + below(range.last - range.first + 1); }
  template <class T, size_t N>
  const T& one_of(const T (&list)[N]) {
    return list[below(N)];
  }

 private:
  uint64_t state_ = 9;
};

void append(std::string& text, uint32_t code_point) {
  const auto put = [&](uint32_t byte) { text += static_cast<char>(byte); };
  if (code_point < 0x80) return put(code_point);
  if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
  } else {
    if (code_point < 0x10000) {
      put(0xE0 | code_point >> 12);
    } else {
      put(0xF0 | code_point >> 18);
      put(0x80 | (code_point >> 12 & 0x3F));
    }
    put(0x80 | (code_point >> 6 & 0x3F));
  }
  put(0x80 | (code_point & 0x3F));
}

uint32_t basic_code_point(Draws& draws) {
  const uint32_t drawn = 1 + draws.below(0xFFFF);
  if (drawn >= 0xD800 && drawn <= 0xDFFF) return drawn - 0x800;  // no surrogates
  // Marks of Unicode 14, which the package's normalizer does not know.
  return drawn >= 0x870 && drawn <= 0x8D2 ? drawn - 0x100 : drawn;
}

void append_item(std::string& text, Draws& draws) {
  const uint32_t kind = draws.below(12);
  const auto repeat = [&](size_t most, auto&& action) {
    for (uint32_t left = 1 + draws.below(most); left > 0; --left) action();
  };
  if (kind < 4) {
    const Range script = draws.one_of(scripts);
    repeat(8, [&] { append(text, draws.from(script)); });
  } else if (kind < 6) {
    text += draws.one_of(words);
  } else if (kind == 6) {
    const uint32_t zero = draws.one_of(zeros);
    repeat(7, [&] { append(text, zero + draws.below(10)); });
  } else if (kind == 7) {
    repeat(4, [&] { text += draws.one_of(spaces); });
  } else if (kind == 8) {
    repeat(5, [&] { text += punctuation[draws.below(punctuation.size())]; });
  } else if (kind == 9) {
    append(text, basic_code_point(draws));
  } else if (kind == 10) {
    append(text, draws.from(draws.one_of(planes)));
  } else {
    append(text, 0x61 + draws.below(26));
    repeat(3, [&] { append(text, 0x300 + draws.below(0x70)); });
    if (draws.below(4) == 0) {
      append(text, 0x1F466 + draws.below(4));
      text += "\u200d";
      append(text, 0x1F466 + draws.below(4));
      text += "\ufe0f";
    }
  }
}

}  // namespace

std::string mixed_unicode(size_t bytes) {
  Draws draws;
  std::string text;
  while (text.size() < bytes) {
    append_item(text, draws);
    if (draws.below(2) != 0) text += ' ';
  }
  return text;
}

}  // namespace nibble::test
