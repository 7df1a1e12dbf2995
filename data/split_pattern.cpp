#include "data/split_pattern.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "fmt/format.h"
#include "tensor/error.hpp"

namespace nibble {
namespace {

constexpr size_t longest_expression = 1 << 14;
/// Unicode's White_Space, which is what \s means to Oniguruma. PCRE2's adds U+180E.
constexpr std::string_view white_space_set = R"(\x09-\x0D\x{85}\p{Z})";
constexpr std::array<std::string_view, 37> general_categories = {
    "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe",
    "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Cs", "Co", "Cn"};
constexpr std::array<std::string_view, 7> groups = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};

[[noreturn]] void refuse(const std::string& where, std::string what, std::string seen, std::string allowed) {
  throw Error({.kind = ErrorKind::data,
               .what = std::move(what),
               .where = where,
               .seen = std::move(seen),
               .allowed = std::move(allowed),
               .next = "use a tokenizer whose expression is like GPT-2's, Llama 3's or Qwen's"});
}

/// Rewrites an expression of Oniguruma's (Ruby's syntax, UTF-8) as PCRE2 reads it.
class Translation {
 public:
  Translation(std::string_view expression, const std::string& where) : rest_(expression), where_(where) {}

  std::string run() {
    while (!rest_.empty()) {
      if (rest_[0] == '\\') escape();
      else if (in_set_) set_member();
      else outside();
    }
    return std::move(result_);
  }

 private:
  [[noreturn]] void refuse_construct(size_t length) const {
    refuse(where_, "the regular expression has a construct that Nibble does not translate",
           std::string(rest_.substr(0, length)),
           R"(\p{L} and other general categories, \s \S \d \D, sets, groups, alternatives, quantifiers, look-around)");
  }
  void keep(size_t length) { replace(length, rest_.substr(0, length)); }
  void replace(size_t length, std::string_view by) {
    result_ += by;
    rest_.remove_prefix(length);
  }
  size_t hexadecimal_digits(size_t from) const {
    size_t count = 0;
    while (from + count < rest_.size() && std::isxdigit(static_cast<unsigned char>(rest_[from + count]))) ++count;
    return count;
  }

  void escape() {
    if (rest_.size() < 2) refuse_construct(1);
    const char symbol = rest_[1];
    switch (symbol) {
      case 'p':
      case 'P':
        return category();
      case 's':
        return in_set_ ? replace(2, white_space_set) : replace(2, fmt::format("[{}]", white_space_set));
      case 'S':
        if (in_set_) refuse_construct(2);
        return replace(2, fmt::format("[^{}]", white_space_set));
      case 'd':
        return replace(2, R"(\p{Nd})");
      case 'D':
        return replace(2, R"(\P{Nd})");
      case 'v':
        return replace(2, R"(\x0B)");
      case 'r':
      case 'n':
      case 't':
      case 'f':
        return keep(2);
      case 'u':
        if (hexadecimal_digits(2) < 4) refuse_construct(6);
        return replace(6, fmt::format("\\x{{{}}}", rest_.substr(2, 4)));
      case 'x':
        return hexadecimal();
      default:
        if (!std::ispunct(static_cast<unsigned char>(symbol))) refuse_construct(2);
        return keep(2);
    }
  }

  void category() {
    const size_t close = rest_.find('}');
    if (rest_.size() < 3 || rest_[2] != '{' || close == std::string_view::npos) refuse_construct(8);
    if (std::ranges::find(general_categories, rest_.substr(3, close - 3)) == general_categories.end())
      refuse_construct(close + 1);
    keep(close + 1);
  }

  void hexadecimal() {
    if (rest_.size() > 2 && rest_[2] == '{') {
      const size_t digits = hexadecimal_digits(3);
      if (digits == 0 || digits > 6 || 3 + digits >= rest_.size() || rest_[3 + digits] != '}') refuse_construct(12);
      return keep(4 + digits);
    }
    if (hexadecimal_digits(2) < 2) refuse_construct(4);
    keep(4);
  }

  void set_member() {
    // Oniguruma has sets within sets and intersections; PCRE2 reads these characters as themselves.
    if (rest_[0] == '[' || rest_.starts_with("&&")) refuse_construct(2);
    in_set_ = rest_[0] != ']';
    keep(1);
  }

  void outside() {
    switch (rest_[0]) {
      case '[': {
        const size_t length = rest_.starts_with("[^") ? 2 : 1;
        if (rest_.substr(length).starts_with(']')) refuse_construct(length + 1);
        in_set_ = true;
        return keep(length);
      }
      case '(': {
        if (!rest_.starts_with("(?") && !rest_.starts_with("(*")) return keep(1);
        const auto group =
            std::ranges::find_if(groups, [&](std::string_view begin) { return rest_.starts_with(begin); });
        if (group == groups.end()) refuse_construct(4);
        return keep(group->size());
      }
      case '{':
        return repetition();
      case '^':  // Oniguruma's are the begin and end of any line
      case '$':
        refuse_construct(1);
      default:
        return keep(1);
    }
  }

  void repetition() {
    size_t end = 1;
    while (end < rest_.size() &&
           (std::isdigit(static_cast<unsigned char>(rest_[end])) || (rest_[end] == ',' && end > 1)))
      ++end;
    // {1,3}+ repeats the repetition in one, and is possessive in the other.
    if (end == 1 || end >= rest_.size() || rest_[end] != '}' || rest_.substr(end + 1).starts_with('+'))
      refuse_construct(end + 2);
    keep(end + 1);
  }

  std::string_view rest_;
  const std::string& where_;
  std::string result_;
  bool in_set_ = false;
};

std::string message_of(int error) {
  std::array<PCRE2_UCHAR8, 256> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

PCRE2_SPTR8 pointer(std::string_view text) { return reinterpret_cast<PCRE2_SPTR8>(text.data()); }

/// Each thread's: a search writes to it.
pcre2_match_data* thread_match_data() {
  thread_local const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> data(
      pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  return data.get();
}

}  // namespace

SplitPattern::SplitPattern(std::string_view expression, std::string where) : where_(std::move(where)) {
  if (expression.size() > longest_expression)
    refuse(where_, "the regular expression is too long", fmt::format("{} bytes", expression.size()),
           fmt::format("at most {}", longest_expression));
  const std::string translated = Translation(expression, where_).run();
  int error = 0;
  size_t offset = 0;
  const std::unique_ptr<pcre2_compile_context, void (*)(pcre2_compile_context*)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);  // what . does not match, however PCRE2 was built
  code_ = std::shared_ptr<void>(
      pcre2_compile(pointer(translated), translated.size(), PCRE2_UTF | PCRE2_UCP, &error, &offset, context.get()),
      [](void* code) { pcre2_code_free(static_cast<pcre2_code*>(code)); });
  if (!code_)
    refuse(where_, "the regular expression cannot be compiled", message_of(error), "an expression that PCRE2 accepts");
  auto* code = static_cast<pcre2_code*>(code_.get());
  uint32_t may_be_empty = 0;
  pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &may_be_empty);
  if (may_be_empty)
    refuse(where_, "the regular expression may match nothing", std::string(expression.substr(0, 200)),
           "an expression whose matches have at least one character");
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where it is not to be had, PCRE2 interprets: slower, the same matches
}

std::optional<SplitPattern::Match> SplitPattern::find(std::string_view text, size_t from) const {
  pcre2_match_data* data = thread_match_data();
  const int found = pcre2_match(static_cast<const pcre2_code*>(code_.get()), pointer(text), text.size(), from,
                                PCRE2_NO_UTF_CHECK, data, nullptr);
  if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
  const size_t* bounds = pcre2_get_ovector_pointer(data);
  // \K and the like could make others; the translation lets none through.
  const bool whole = found >= 0 && bounds[0] >= from && bounds[0] < bounds[1] && bounds[1] <= text.size();
  if (!whole)
    refuse(where_, "the regular expression's search does not end",
           found < 0 ? message_of(found) : std::string("an empty match"), "a match in PCRE2's limits");
  return Match{bounds[0], bounds[1]};
}

std::string SplitPattern::literal(std::string_view text) {
  std::string expression;
  for (const char symbol : text) {
    if (std::ispunct(static_cast<unsigned char>(symbol))) expression += '\\';
    expression += symbol;
  }
  return expression;
}

}  // namespace nibble
