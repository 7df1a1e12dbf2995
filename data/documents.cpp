#include "data/documents.hpp"

#include <algorithm>
#include <filesystem>
#include <string_view>

#include "data/json.hpp"
#include "fmt/format.h"

namespace nibble {
namespace fs = std::filesystem;
namespace {

constexpr size_t largest_document = size_t{1} << 30;

/// The name without .gz, .xz or .zst.
std::string uncompressed_name(const std::string& path) {
  const fs::path name(path);
  const std::string extension = name.extension().string();
  const bool compressed = extension == ".gz" || extension == ".xz" || extension == ".zst";
  return compressed ? name.stem().string() : name.filename().string();
}

bool is_json_lines(const std::string& path) {
  const std::string name = uncompressed_name(path), extension = fs::path(name).extension().string();
  const bool compressed = name != fs::path(path).filename().string();
  return extension == ".jsonl" || extension == ".ndjson" || (compressed && extension == ".json");
}

/// As git and grep do: a zero byte near the beginning.
bool is_binary(const std::string& path) {
  char head[8192];
  const std::unique_ptr<ByteSource> source = open_source(path);
  size_t filled = 0;
  while (filled < sizeof head) {
    const size_t count = source->read(head + filled, sizeof head - filled);
    if (count == 0) break;
    filled += count;
  }
  return std::find(head, head + filled, '\0') != head + filled;
}

bool is_blank(std::string_view text) { return text.find_first_not_of(white_space) == std::string_view::npos; }

[[noreturn]] void fail(const std::string& where, std::string what, std::string seen, std::string allowed = {},
                       std::string next = {}) {
  throw Error({.kind = ErrorKind::data,
               .what = std::move(what),
               .where = where,
               .seen = std::move(seen),
               .allowed = std::move(allowed),
               .next = std::move(next)});
}

}  // namespace

DocumentReader::DocumentReader(const std::vector<std::string>& inputs, DocumentOptions options)
    : options_(std::move(options)) {
  for (const std::string& input : inputs) {
    std::error_code ignored;  // what is no folder has to be a readable file
    if (fs::is_directory(input, ignored)) add_folder(input);
    else files_.push_back({input, size_of_file(input), is_json_lines(input), false});
  }
  for (const File& file : files_) total_bytes_ += file.bytes;
  if (files_.empty())
    fail(inputs.empty() ? "" : inputs.front(), "there is no file to read",
         fmt::format("{} hidden, {} with other extensions", counts_.hidden, counts_.other_extension), "",
         "name files or folders that hold text");
}

void DocumentReader::add_folder(const std::string& folder) {
  const size_t first = files_.size();
  const auto wanted = [this](const std::string& path) {
    std::string extension = fs::path(uncompressed_name(path)).extension().string();
    if (!extension.empty()) extension.erase(0, 1);
    return options_.extensions.empty() || std::ranges::count(options_.extensions, extension) > 0;
  };
  std::error_code error;
  fs::recursive_directory_iterator entry(folder, error);
  for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    const std::string path = entry->path().string();
    std::error_code ignored;  // an entry that vanished meanwhile is no regular file
    if (entry->path().filename().string().starts_with('.')) {
      ++counts_.hidden;
      if (entry->is_directory(ignored)) entry.disable_recursion_pending();
    } else if (entry->is_regular_file(ignored)) {
      if (wanted(path)) files_.push_back({path, size_of_file(path), is_json_lines(path), true});
      else ++counts_.other_extension;
    }
  }
  if (error) fail(folder, "cannot read the folder", error.message());
  std::sort(files_.begin() + static_cast<std::ptrdiff_t>(first), files_.end(),
            [](const File& a, const File& b) { return a.path < b.path; });
}

bool DocumentReader::open_next() {
  while (file_ < files_.size()) {
    const File& file = files_[file_++];
    if (file.in_folder && is_binary(file.path)) {
      ++counts_.binary;
      finished_bytes_ += file.bytes;
      continue;
    }
    lines_ = std::make_unique<LineReader>(file.path);
    part_ = 0;
    ++counts_.files;
    return true;
  }
  return false;
}

bool DocumentReader::next(Document& document) {
  while (lines_ || open_next()) {
    const File& file = files_[file_ - 1];
    if (!(file.json_lines ? next_json(document) : next_text(document))) {
      lines_.reset();
      finished_bytes_ += file.bytes;
    } else if (is_blank(document.text)) {
      ++counts_.empty;
    } else {
      return true;
    }
  }
  return false;
}

bool DocumentReader::next_json(Document& document) {
  std::string line;
  do {
    if (!lines_->next(line)) return false;
  } while (is_blank(line));
  document.id = lines_->where();

  const nlohmann::json object = parse_json(line, document.id, ErrorKind::data);
  if (!object.is_object()) fail(document.id, "the line is not a JSON object", object.type_name(), "an object {...}");
  const auto text_of = [&](const std::string& key) {
    const auto found = object.find(key);
    if (found == object.end()) {
      std::string keys;
      for (const auto& item : object.items())
        if (keys.size() < 200) keys += (keys.empty() ? "" : ", ") + item.key();
      fail(document.id, fmt::format("the key '{}' is missing", key), "keys: " + keys,
           fmt::format("'{}', or 'prompt' and 'completion'", options_.text_key), "name the key with --text-key");
    }
    if (!found->is_string())
      fail(document.id, fmt::format("the value of '{}' is not a text", key), found->type_name(), "a string");
    return found->get<std::string>();
  };
  const bool pair = !object.contains(options_.text_key) && (object.contains("prompt") || object.contains("completion"));
  document.prompt = pair ? std::optional(text_of("prompt")) : std::nullopt;
  document.text = text_of(pair ? "completion" : options_.text_key);
  return true;
}

bool DocumentReader::next_text(Document& document) {
  const auto wanted = static_cast<size_t>(options_.split_bytes);
  document.prompt.reset();
  document.text.clear();
  std::string line;
  bool any = false;
  while (lines_->next(line)) {
    any = true;
    document.text += line;
    if (lines_->terminated()) document.text += '\n';
    if (wanted > 0 && document.text.size() >= wanted && (is_blank(line) || document.text.size() >= 2 * wanted)) break;
    if (document.text.size() > largest_document)
      fail(files_[file_ - 1].path, "the text is too long for one document",
           fmt::format("more than {} bytes", largest_document), "",
           "cut it into documents with --split-documents 64KiB");
  }
  const std::string& path = files_[file_ - 1].path;
  ++part_;
  document.id = wanted > 0 ? fmt::format("{}, part {}", path, part_) : path;
  return any;
}

}  // namespace nibble
