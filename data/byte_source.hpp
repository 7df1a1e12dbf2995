// Bytes of a file as a stream, decompressed on the way: plain, gzip, xz or Zstandard, told apart by content.
//
// Memory is constant whatever the size of the file. Not for: what the bytes mean (documents.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "tensor/error.hpp"

namespace nibble {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  /// Up to `capacity` decompressed bytes; 0 at the end. Throws Error{data}: unreadable, truncated or damaged.
  virtual size_t read(char* out, size_t capacity) = 0;
  /// Bytes of the file consumed so far: compressed ones, so that they compare with the file's size.
  virtual int64_t position() const = 0;
};

/// How compressed files begin.
inline constexpr std::string_view gzip_signature = "\x1f\x8b", zstd_signature = "\x28\xB5\x2F\xFD",
                                  xz_signature{"\xFD\x37zXZ\0", 6};

/// Bytes of the file as it stands on disk. Throws Error{data}: missing, a directory, a pipe or device, unreadable.
int64_t size_of_file(const std::string& path);

/// Throws Error{data} as `size_of_file` does.
std::unique_ptr<ByteSource> open_source(const std::string& path);

/// Lines of a source, whatever their length up to `longest`.
class LineReader {
 public:
  static constexpr size_t longest = size_t{1} << 30;

  explicit LineReader(const std::string& path) : path_(path), source_(open_source(path)) {}

  /// The next line without its "\n"; false at the end. Throws Error{data} as the source does and for a longer line.
  bool next(std::string& line);
  /// Of the line that `next` gave last; the first is 1.
  int64_t number() const { return number_; }
  /// Whether that line ended with "\n"; only a file's last one may not.
  bool terminated() const { return terminated_; }
  /// "FILE, line N".
  std::string where() const;
  int64_t position() const { return source_->position(); }

 private:
  std::string path_;
  std::unique_ptr<ByteSource> source_;
  std::string block_;
  size_t begin_ = 0;
  int64_t number_ = 0;
  bool terminated_ = false;
};

}  // namespace nibble
