// Documents from text files, folders and JSON lines, each also compressed, one at a time.
//
// Not for: tokens (tokenize.hpp).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/byte_source.hpp"

namespace nibble {

/// What separates words, and is all that blank lines hold.
inline constexpr std::string_view white_space = " \t\r\n\f\v";

struct Document {
  std::string id;                     ///< where it came from: "FILE", "FILE, line N", "FILE, part N"
  std::optional<std::string> prompt;  ///< of a prompt/completion pair: read, not learned
  std::string text;                   ///< the completion, if there is a prompt

  int64_t bytes() const { return static_cast<int64_t>(text.size() + (prompt ? prompt->size() : 0)); }
};

struct DocumentOptions {
  std::string text_key = "text";  ///< of JSON lines that are not prompt/completion pairs
  /// Of files in folders, without the dot and before a compression suffix ("txt", "md"); empty: every text file.
  std::vector<std::string> extensions{};
  /// Text files are cut into documents of at least this many bytes, at the next blank line, or at a line's end when no
  /// blank line comes within as many bytes again. 0: a file is one document.
  int64_t split_bytes = 0;
};

/// What stood in folders and was left out, and what was read.
struct DocumentCounts {
  int64_t files = 0;
  int64_t hidden = 0;  ///< files and folders whose name begins with a dot
  int64_t binary = 0;  ///< files with a zero byte in their first 8 KB
  int64_t other_extension = 0;
  int64_t empty = 0;  ///< documents without any text
};

/// Reads inputs in the order given; a folder's files recursively in the order of their paths' bytes. Names that end in
/// .jsonl or .ndjson (before .gz, .xz or .zst), or in .json.gz, .json.xz or .json.zst, as C4's do, are JSON lines: an
/// object each, with the text key or with `prompt` and `completion`; every other file is text. Symbolic links to
/// folders are not followed.
class DocumentReader {
 public:
  /// Throws Error{data} when an input is missing, unreadable, or a pipe, and when no file is left to read.
  DocumentReader(const std::vector<std::string>& inputs, DocumentOptions options);

  /// The next document that has text; false at the end. Throws Error{data} with file and line: bad JSON
  /// (data/json.hpp), a missing or wrong key, damaged compression, text above 1 GB in one document.
  bool next(Document& document);

  const DocumentCounts& counts() const { return counts_; }
  /// Bytes of all files as they stand on disk, and how many of them were read.
  int64_t total_bytes() const { return total_bytes_; }
  int64_t bytes_read() const { return finished_bytes_ + (lines_ ? lines_->position() : 0); }

 private:
  struct File {
    std::string path;
    int64_t bytes;
    bool json_lines;
    bool in_folder;
  };

  void add_folder(const std::string& folder);
  bool open_next();
  bool next_json(Document& document);
  bool next_text(Document& document);

  DocumentOptions options_;
  std::vector<File> files_;
  size_t file_ = 0;  ///< the one after the one being read
  std::unique_ptr<LineReader> lines_;
  int64_t part_ = 0;
  DocumentCounts counts_;
  int64_t total_bytes_ = 0, finished_bytes_ = 0;
};

}  // namespace nibble
