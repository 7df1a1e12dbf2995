#include "tensor/cuda/library_algorithm.hpp"

#include <charconv>
#include <string_view>
#include <system_error>

#include "tensor/error.hpp"

namespace nibble::cuda {

std::string text_of(const LibraryAlgorithm& algorithm) {
  std::string text;
  for_each_number(algorithm, [&](const char* name, uint32_t number) {
    if (!text.empty()) text += ", ";
    text += name;
    text += ' ' + std::to_string(number);
  });
  return text;
}

LibraryAlgorithm algorithm_in(const std::string& text, const std::string& product) {
  LibraryAlgorithm algorithm;
  std::string_view left = text;
  bool fits = true;
  for_each_number(algorithm, [&](std::string_view name, uint32_t& number) {
    const std::string before = (left.size() == text.size() ? "" : ", ") + std::string(name) + ' ';
    if (!fits || !left.starts_with(before)) {
      fits = false;
      return;
    }
    left.remove_prefix(before.size());
    const auto [end, error] = std::from_chars(left.data(), left.data() + left.size(), number);
    fits = error == std::errc();
    left.remove_prefix(static_cast<size_t>(end - left.data()));
  });
  if (fits && left.empty()) return algorithm;
  throw Error({.kind = ErrorKind::checkpoint,
               .what = "this is no algorithm of cuBLASLt",
               .where = "product " + product,
               .seen = text,
               .allowed = "such as \"" + text_of({}) + "\"",
               .next = "restore the record, or choose algorithms anew with --retune"});
}

}  // namespace nibble::cuda
