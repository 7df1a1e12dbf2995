// A file that grows by whole lines: a log that other programs read while it is written.
//
// Not for files that must be complete (AtomicFile in tensor/files.hpp). A crash of the machine may lose the lines since
// the last `sync` or tear one; the reader deals with that.
#pragma once

#include <filesystem>
#include <string_view>

namespace nibble {

class AppendedFile {
 public:
  /// Opens the file at its end, creating it if need be. Throws Error{resource}.
  explicit AppendedFile(std::filesystem::path path);
  ~AppendedFile();
  AppendedFile(AppendedFile&& other) noexcept;
  AppendedFile& operator=(AppendedFile&& other) noexcept;

  /// Hands the text to the operating system in one piece before it returns. Throws Error{resource}.
  void append(std::string_view text);
  /// What was appended so far survives a power cut after this. Throws Error{resource}.
  void sync();

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace nibble
