// llm.c's evaluation files, for tests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace nibble::test {

struct EvaluationExample {
  std::vector<std::vector<int32_t>> lists;  ///< the context's ids, then each choice's
  uint16_t answer = 0;
};

/// Layout: llm.c, dev/data/data_common.py, write_evalfile.
inline std::string evaluation_file(const std::vector<EvaluationExample>& examples) {
  std::vector<uint16_t> numbers(512);  // 256 int32: magic, version, examples, largest example
  numbers[0] = 20240522 & 0xFFFF;
  numbers[1] = 20240522 >> 16;
  numbers[2] = 1;
  numbers[4] = static_cast<uint16_t>(examples.size());
  for (size_t index = 0; index < examples.size(); ++index) {
    const auto& [lists, answer] = examples[index];
    const size_t begin = numbers.size();
    for (const size_t number : {size_t{65535}, size_t{0}, index, size_t{answer}, lists.size() - 1})
      numbers.push_back(static_cast<uint16_t>(number));
    for (const std::vector<int32_t>& ids : lists) {
      numbers.push_back(static_cast<uint16_t>(ids.size()));
      for (const int32_t id : ids) numbers.push_back(static_cast<uint16_t>(id));
    }
    numbers[begin + 1] = static_cast<uint16_t>(2 * (numbers.size() - begin));
    if (numbers[begin + 1] > numbers[6]) numbers[6] = numbers[begin + 1];
  }
  std::string bytes;
  for (const uint16_t number : numbers) {
    bytes += static_cast<char>(number & 0xFF);
    bytes += static_cast<char>(number >> 8);
  }
  return bytes;
}

}  // namespace nibble::test
