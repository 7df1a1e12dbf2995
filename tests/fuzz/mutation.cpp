#include "tests/fuzz/mutation.hpp"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "tensor/random.hpp"

namespace nibble::fuzz {
namespace {

using namespace std::string_view_literals;

constexpr size_t longest_input = size_t{1} << 16;

// What readers trip over: ends of ranges, brackets without an end, what looks like another type.
constexpr std::string_view words[] = {"-1",
                                      "1e999",
                                      "9223372036854775807",
                                      "18446744073709551616",
                                      "0.1",
                                      "nan",
                                      "null",
                                      "true",
                                      "[",
                                      "[[[[[[[[",
                                      "]",
                                      "{",
                                      "{\"a\":",
                                      "}",
                                      "\"",
                                      "'",
                                      ",",
                                      ":",
                                      ": *a",
                                      " &a ",
                                      "<<: ",
                                      "? ",
                                      "- ",
                                      "|",
                                      "#",
                                      "!!",
                                      "%",
                                      "10%",
                                      "\n",
                                      "\t",
                                      "\n  ",
                                      "\r\n",
                                      "\\u0000",
                                      "\\ud800",
                                      "\x80",
                                      "\xff\xfe",
                                      "\xe2\x96\x81",
                                      "../",
                                      "/",
                                      "*",
                                      "@",
                                      "\0"sv};
constexpr std::string_view numbers[] = {"0",
                                        "-1",
                                        "1",
                                        "2",
                                        "7",
                                        "255",
                                        "256",
                                        "65535",
                                        "65536",
                                        "1.5",
                                        "1e308",
                                        "1e-308",
                                        "2147483647",
                                        "2147483648",
                                        "4294967296",
                                        "9223372036854775807",
                                        "-9223372036854775808",
                                        "18446744073709551615"};
constexpr uint64_t limits[] = {
    0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0xffffffff, ~uint64_t{0} >> 1, ~uint64_t{0}};

class Mutation {
 public:
  Mutation(const std::vector<std::string>& corpus, uint64_t seed)
      : corpus_(corpus), random_(seed, Purpose::sampling), bytes_(any_file()) {}

  std::string run() {
    const uint64_t edits = 1 + below(8);
    for (uint64_t i = 0; i < edits; ++i) edit();
    bytes_.resize(std::min(bytes_.size(), longest_input));
    return std::move(bytes_);
  }

 private:
  uint64_t below(uint64_t bound) { return bound == 0 ? 0 : random_.word(drawn_++) % bound; }
  const std::string& any_file() { return corpus_[below(corpus_.size())]; }
  template <class Values>
  auto any_of(const Values& values) {
    return values[below(std::size(values))];
  }
  /// A short piece more often than a long one.
  std::string piece_of(const std::string& text) {
    if (text.empty()) return {};
    const size_t at = below(text.size());
    return text.substr(at, 1 + below(size_t{1} << below(12)));
  }

  void edit() {
    if (bytes_.empty()) bytes_ = any_of(words);
    const size_t at = below(bytes_.size()), length = std::min(bytes_.size() - at, 1 + below(size_t{1} << below(10)));
    switch (below(10)) {
      case 0:
        bytes_[at] = static_cast<char>(bytes_[at] ^ (1 << below(8)));
        break;
      case 1:
        bytes_[at] = static_cast<char>(below(256));
        break;
      case 2:
        bytes_.erase(at, length);
        break;
      case 3:
        bytes_.insert(at, bytes_.substr(below(bytes_.size()), length));
        break;
      case 4:
        bytes_.insert(at, any_of(words));
        break;
      case 5:
        bytes_.insert(at, piece_of(any_file()));
        break;
      case 6:
        bytes_.replace(at, length, piece_of(any_file()));
        break;
      case 7:
        change_number(at);
        break;
      case 8:
        set_limit(at);
        break;
      default:
        below(4) == 0 ? bytes_.resize(at) : void(std::swap(bytes_[at], bytes_[below(bytes_.size())]));
        break;
    }
  }

  /// The next decimal number as text.
  void change_number(size_t at) {
    constexpr std::string_view digits = "0123456789";
    const size_t first = bytes_.find_first_of(digits, at);
    if (first == std::string::npos) return;
    const size_t end = std::min(bytes_.find_first_not_of(digits, first), bytes_.size());
    bytes_.replace(first, end - first, any_of(numbers));
  }

  /// One to eight bytes as a little-endian number.
  void set_limit(size_t at) {
    const uint64_t value = any_of(limits) - below(2);
    std::memcpy(bytes_.data() + at, &value, std::min<size_t>(size_t{1} << below(4), bytes_.size() - at));
  }

  const std::vector<std::string>& corpus_;
  RandomStream random_;
  uint64_t drawn_ = 0;
  std::string bytes_;
};

}  // namespace

std::string mutate(const std::vector<std::string>& corpus, uint64_t seed) { return Mutation(corpus, seed).run(); }

}  // namespace nibble::fuzz
