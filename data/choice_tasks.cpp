#include "data/choice_tasks.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "data/byte_source.hpp"
#include "data/json_fields.hpp"
#include "data/shard_format.hpp"
#include "fmt/format.h"
#include "tensor/files.hpp"

namespace nibble {
namespace {

constexpr uint32_t magic = 20240522, version = 1;
constexpr size_t header_bytes = 256 * sizeof(int32_t);
constexpr uint16_t start_of_example = 65535;
constexpr const char* again = "fetch the file again, or make it again";
constexpr const char* blank = " \t\r\n";

[[noreturn]] void refuse(const std::string& where, std::string what, std::string seen, std::string allowed,
                         std::string next = again) {
  throw Error({.kind = ErrorKind::data,
               .what = std::move(what),
               .where = where,
               .seen = std::move(seen),
               .allowed = std::move(allowed),
               .next = std::move(next)});
}

void check(const ChoiceQuestion& question, const std::string& where, int64_t vocabulary) {
  if (question.choices.size() < 2)
    refuse(where, "a question has too few choices", fmt::format("{}", question.choices.size()), "at least 2");
  if (question.answer >= question.choices.size())
    refuse(where, "the right answer is none of the choices", fmt::format("choice {}", question.answer),
           fmt::format("0 to {}", question.choices.size() - 1));
  for (size_t i = 0; i < question.choices.size(); ++i) {
    if (question.choices[i].ids.empty())
      refuse(where, "a choice has no tokens", fmt::format("choice {}", i), "a text of at least one token");
    if (question.contexts[i].empty())
      refuse(where, "nothing stands before a choice's first token, so nothing tells its probability",
             fmt::format("choice {}", i), "a context, or a tokenizer with BOS");
    for (const std::vector<int32_t>* ids : {&question.contexts[i], &question.choices[i].ids})
      for (const int32_t id : *ids)
        if (id >= vocabulary)
          refuse(where, "a token id is outside the model's vocabulary", fmt::format("token id {}", id),
                 fmt::format("0 to {}", vocabulary - 1), "use a file made with the model's tokenizer");
  }
}

// llm.c's evaluation files -------------------------------------------------------------------------------------------

/// The numbers of one example.
class ExampleReader {
 public:
  ExampleReader(std::span<const std::byte> bytes, std::string where) : bytes_(bytes), where_(std::move(where)) {}

  uint16_t next() {
    uint16_t value = 0;
    if (bytes_.size() < sizeof value)
      refuse(where_, "an example of the evaluation file ends early", "too few numbers", "what its counts say");
    std::memcpy(&value, bytes_.data(), sizeof value);
    bytes_ = bytes_.subspan(sizeof value);
    return value;
  }
  std::vector<int32_t> ids() {
    std::vector<int32_t> list(next());
    for (int32_t& id : list) id = next();
    return list;
  }
  bool at_end() const { return bytes_.empty(); }

 private:
  std::span<const std::byte> bytes_;
  std::string where_;
};

ChoiceQuestion read_example(std::span<const std::byte> bytes, const std::string& where, size_t index) {
  ExampleReader reader(bytes, where);
  reader.next();  // the start and the size were read to find the example
  reader.next();
  if (const uint16_t seen = reader.next(); seen != static_cast<uint16_t>(index))
    refuse(where, "an example of the evaluation file has another number", fmt::format("{}", seen),
           fmt::format("{}", index));
  ChoiceQuestion question;
  question.answer = reader.next();
  const size_t count = reader.next();
  const std::vector<int32_t> context = reader.ids();
  for (size_t i = 0; i < count; ++i) {
    question.contexts.push_back(context);
    question.choices.push_back({reader.ids(), 0});
    question.choices.back().length = static_cast<double>(question.choices.back().ids.size());
  }
  if (!reader.at_end())
    refuse(where, "an example of the evaluation file is longer than its counts say",
           fmt::format("{} bytes", bytes.size()), "no numbers behind the last choice");
  return question;
}

ChoiceTask read_llmc(const std::string& path, std::span<const std::byte> file, int64_t vocabulary) {
  std::array<uint32_t, 4> header{};
  if (file.size() < header_bytes)
    refuse(path, "the evaluation file is truncated", fmt::format("{} bytes", file.size()),
           fmt::format("{} bytes of header", header_bytes));
  std::memcpy(header.data(), file.data(), sizeof header);
  if (header[1] != version)
    refuse(path, "the evaluation file has another version", fmt::format("{}", header[1]), fmt::format("{}", version));
  ChoiceTask task{.normalized_by = "tokens", .questions = {}};
  std::span<const std::byte> rest = file.subspan(header_bytes);
  while (!rest.empty()) {
    const size_t index = task.questions.size();
    const std::string where = fmt::format("{}: example {}", path, index);
    ExampleReader front(rest, where);
    if (const uint16_t start = front.next(); start != start_of_example)
      refuse(where, "an example of the evaluation file does not begin where it should", fmt::format("{}", start),
             fmt::format("{}", start_of_example));
    const size_t bytes = front.next();
    if (bytes > rest.size() || bytes < 2 * sizeof(uint16_t))
      refuse(where, "an example of the evaluation file has an impossible size", fmt::format("{} bytes", bytes),
             fmt::format("at most {}", rest.size()));
    task.questions.push_back(read_example(rest.first(bytes), where, index));
    check(task.questions.back(), where, vocabulary);
    rest = rest.subspan(bytes);
  }
  if (task.questions.size() != header[2])
    refuse(path, "the evaluation file has another number of examples", fmt::format("{}", task.questions.size()),
           fmt::format("{}, as its header says", header[2]));
  return task;
}

// JSON lines ---------------------------------------------------------------------------------------------------------

/// The first of the keys that the object has.
std::string key_of(const JsonFields& fields, std::initializer_list<const char*> keys) {
  const auto found = std::ranges::find_if(keys, [&](const char* key) { return fields.has(key); });
  if (found == keys.end()) fields.refuse(*keys.begin(), "a question lacks a field", "", "see nibble eval --help");
  return *found;
}

size_t answer_of(const JsonFields& fields) {
  constexpr const char* allowed = "a number from 0, or a letter from \"A\"";
  const std::string key = key_of(fields, {"answer", "label", "gold"});
  if (!fields.at(key).is_string()) return static_cast<size_t>(fields.integer(key, 0, INT32_MAX));
  const std::string& text = fields.text(key);
  if (text.size() == 1 && text[0] >= 'A' && text[0] <= 'Z') return static_cast<size_t>(text[0] - 'A');
  if (text.size() == 1 && text[0] >= '0' && text[0] <= '9') return static_cast<size_t>(text[0] - '0');
  fields.refuse(key, "an answer cannot be", allowed);
}

ChoiceQuestion read_question(const nlohmann::json& object, const std::string& where, const Tokenizer& tokenizer) {
  const JsonFields fields(object, where, ErrorKind::data);
  std::string context = fields.text(key_of(fields, {"context", "query", "ctx"}));
  const std::string choices_key = key_of(fields, {"choices", "endings"});
  ChoiceQuestion question;
  question.answer = answer_of(fields);
  // White space at the context's end belongs to the choice's first token.
  const size_t end = context.find_last_not_of(blank) + 1;
  const std::string between = context.substr(end);
  context.resize(end);
  std::vector<int32_t> begin;
  if (tokenizer.bos() >= 0) begin.push_back(tokenizer.bos());
  const size_t context_tokens = tokenizer.encode(context).size();
  for (const nlohmann::json& choice : fields.array(choices_key)) {
    if (!choice.is_string()) fields.refuse(choices_key, "a choice is not a text", "a list of texts");
    const auto& text = choice.get_ref<const std::string&>();
    if (text.empty()) fields.refuse(choices_key, "a choice is empty", "texts of at least one byte");
    const bool spaced = !between.empty() || context.empty() || text.find_first_of(blank) == 0;
    const std::vector<int32_t> both = tokenizer.encode(context + (spaced ? between : " ") + text);
    const size_t cut = std::min(context_tokens, both.empty() ? 0 : both.size() - 1);
    const auto middle = both.begin() + static_cast<std::ptrdiff_t>(cut);
    std::vector<int32_t>& before = question.contexts.emplace_back(begin);
    before.insert(before.end(), both.begin(), middle);
    question.choices.push_back({{middle, both.end()}, static_cast<double>(text.size())});
  }
  return question;
}

ChoiceTask read_json_lines(const std::string& path, const Tokenizer* tokenizer, int64_t vocabulary) {
  if (!tokenizer)
    refuse(path, "questions in text need the model's tokenizer, and it comes with none that Nibble reads", "JSON lines",
           "a model with its tokenizer", "put tokenizer.json or tokenizer.model into the model's folder");
  ChoiceTask task{.normalized_by = "bytes", .questions = {}};
  LineReader lines(path);
  for (std::string line; lines.next(line);) {
    if (line.find_first_not_of(blank) == std::string::npos) continue;
    task.questions.push_back(
        read_question(parse_json(line, lines.where(), ErrorKind::data), lines.where(), *tokenizer));
    check(task.questions.back(), lines.where(), vocabulary);
  }
  return task;
}

bool is_llmc(std::span<const std::byte> bytes) {
  uint32_t first = 0;
  if (bytes.size() < sizeof first) return false;
  std::memcpy(&first, bytes.data(), sizeof first);
  return first == magic;
}

}  // namespace

ChoiceTask read_choice_task(const std::string& path, const Tokenizer* tokenizer, int64_t vocabulary) {
  const MappedFile file(path, ErrorKind::data);
  ChoiceTask task =
      is_llmc(file.bytes()) ? read_llmc(path, file.bytes(), vocabulary) : read_json_lines(path, tokenizer, vocabulary);
  if (task.questions.empty()) refuse(path, "the file holds no question", "0 questions", "at least 1");
  return task;
}

}  // namespace nibble
