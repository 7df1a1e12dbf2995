#include "data/byte_source.hpp"

#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>
#include <utility>
#include <vector>

#include "fmt/format.h"

namespace nibble {
namespace {

constexpr size_t block_size = size_t{1} << 17;
// An xz file names the size of its dictionary; above this it is refused rather than served.
constexpr uint64_t decoder_memory = uint64_t{1} << 30;

[[noreturn]] void fail(const std::string& path, std::string what, std::string seen, std::string next = {}) {
  throw Error({.kind = ErrorKind::data,
               .what = std::move(what),
               .where = path,
               .seen = std::move(seen),
               .next = std::move(next)});
}

/// The file's own bytes.
class PlainSource final : public ByteSource {
 public:
  explicit PlainSource(const std::string& path) : path_(path) {
    size_of_file(path);  // refuses what is no regular file: opening a pipe would wait for its writer
    file_ = std::fopen(path.c_str(), "rb");
    if (file_ == nullptr) fail(path, "cannot open the file", std::strerror(errno));
    std::setvbuf(file_, nullptr, _IONBF, 0);  // the readers above have buffers of their own
  }
  ~PlainSource() override { std::fclose(file_); }
  PlainSource(const PlainSource&) = delete;
  PlainSource& operator=(const PlainSource&) = delete;

  size_t read(char* out, size_t capacity) override {
    const size_t count = std::fread(out, 1, capacity, file_);
    if (count < capacity && std::ferror(file_)) fail(path_, "cannot read the file", std::strerror(errno));
    position_ += static_cast<int64_t>(count);
    return count;
  }
  int64_t position() const override { return position_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::FILE* file_ = nullptr;
  int64_t position_ = 0;
};

/// What the three decompressors share: a block of compressed bytes, refilled when it is used up.
class CompressedSource : public ByteSource {
 public:
  explicit CompressedSource(std::unique_ptr<PlainSource> file) : file_(std::move(file)), block_(block_size) {}

  int64_t position() const override { return file_->position(); }

 protected:
  /// The compressed bytes not used yet; empty only at the end of the file.
  std::string_view pending() {
    if (begin_ == end_) {
      begin_ = 0;
      end_ = file_->read(block_.data(), block_.size());
    }
    return {block_.data() + begin_, end_ - begin_};
  }
  void consume(size_t count) { begin_ += count; }

  [[noreturn]] void truncated() const {
    fail(file_->path(), "the compressed file is truncated",
         fmt::format("it ends after {} bytes, inside a stream", position()), "fetch it again");
  }
  [[noreturn]] void damaged(const std::string& reason) const {
    fail(file_->path(), "the compressed file is damaged", fmt::format("{}, near byte {}", reason, position()),
         "fetch it again");
  }

 private:
  std::unique_ptr<PlainSource> file_;
  std::vector<char> block_;
  size_t begin_ = 0, end_ = 0;
};

class GzipSource final : public CompressedSource {
 public:
  explicit GzipSource(std::unique_ptr<PlainSource> file) : CompressedSource(std::move(file)) {
    if (inflateInit2(&stream_, 16 + MAX_WBITS) != Z_OK) damaged("zlib cannot start");
  }
  ~GzipSource() override { inflateEnd(&stream_); }

  size_t read(char* out, size_t capacity) override {
    capacity = std::min<size_t>(capacity, std::numeric_limits<uInt>::max());
    size_t written = 0;
    while (written == 0) {
      const std::string_view input = pending();
      if (input.empty()) {
        if (inside_member_) truncated();
        return 0;
      }
      if (!inside_member_) inflateReset(&stream_);  // members may follow each other
      inside_member_ = true;
      stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(input.data()));
      stream_.avail_in = static_cast<uInt>(input.size());
      stream_.next_out = reinterpret_cast<Bytef*>(out);
      stream_.avail_out = static_cast<uInt>(capacity);
      const int status = inflate(&stream_, Z_NO_FLUSH);
      consume(input.size() - stream_.avail_in);
      written = capacity - stream_.avail_out;
      if (status == Z_STREAM_END) inside_member_ = false;
      else if (status != Z_OK) damaged(stream_.msg != nullptr ? stream_.msg : "zlib refuses it");
    }
    return written;
  }

 private:
  z_stream stream_{};
  bool inside_member_ = false;
};

class XzSource final : public CompressedSource {
 public:
  explicit XzSource(std::unique_ptr<PlainSource> file) : CompressedSource(std::move(file)) {
    if (lzma_stream_decoder(&stream_, decoder_memory, LZMA_CONCATENATED) != LZMA_OK) damaged("liblzma cannot start");
  }
  ~XzSource() override { lzma_end(&stream_); }

  size_t read(char* out, size_t capacity) override {
    size_t written = 0;
    while (written == 0 && !finished_) {
      const std::string_view input = pending();
      stream_.next_in = reinterpret_cast<const uint8_t*>(input.data());
      stream_.avail_in = input.size();
      stream_.next_out = reinterpret_cast<uint8_t*>(out);
      stream_.avail_out = capacity;
      const lzma_ret status = lzma_code(&stream_, input.empty() ? LZMA_FINISH : LZMA_RUN);
      consume(input.size() - stream_.avail_in);
      written = capacity - stream_.avail_out;
      if (status == LZMA_STREAM_END) finished_ = true;
      else if (status == LZMA_BUF_ERROR && input.empty()) truncated();
      else if (status == LZMA_MEMLIMIT_ERROR) damaged("its dictionary needs more than 1 GB");
      else if (status != LZMA_OK) damaged(status == LZMA_DATA_ERROR ? "wrong data or checksum" : "liblzma refuses it");
    }
    return written;
  }

 private:
  lzma_stream stream_ = LZMA_STREAM_INIT;
  bool finished_ = false;
};

class ZstdSource final : public CompressedSource {
 public:
  explicit ZstdSource(std::unique_ptr<PlainSource> file)
      : CompressedSource(std::move(file)), context_(ZSTD_createDCtx()) {
    if (context_ == nullptr) damaged("libzstd cannot start");
    ZSTD_DCtx_setParameter(context_, ZSTD_d_windowLogMax, 30);
  }
  ~ZstdSource() override { ZSTD_freeDCtx(context_); }

  size_t read(char* out, size_t capacity) override {
    ZSTD_outBuffer output{out, capacity, 0};
    while (output.pos == 0) {
      const std::string_view compressed = pending();
      ZSTD_inBuffer input{compressed.data(), compressed.size(), 0};
      if (compressed.empty() && !inside_frame_) return 0;
      const size_t status = ZSTD_decompressStream(context_, &output, &input);
      consume(input.pos);
      if (ZSTD_isError(status)) damaged(ZSTD_getErrorName(status));
      if (compressed.empty() && output.pos == 0) truncated();
      inside_frame_ = status != 0;
    }
    return output.pos;
  }

 private:
  ZSTD_DCtx* context_;
  bool inside_frame_ = false;
};

}  // namespace

int64_t size_of_file(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found)
    fail(path, "the file does not exist", "no such file", "check the path, or make the file");
  if (status.type() == std::filesystem::file_type::none)
    fail(path, "cannot open the file", error.message(), "check the permissions of the file and the folders above it");
  if (std::filesystem::is_directory(status)) fail(path, "this is a folder, not a file", "a folder");
  if (!std::filesystem::is_regular_file(status))
    fail(path, "this is not a file", "a pipe, socket or device", "copy its contents to a file");
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) fail(path, "cannot open the file", error.message());
  return static_cast<int64_t>(size);
}

std::unique_ptr<ByteSource> open_source(const std::string& path) {
  char head[6] = {};
  const size_t size = PlainSource(path).read(head, sizeof head);
  const std::string_view signature(head, size);
  auto file = std::make_unique<PlainSource>(path);
  if (signature.starts_with(xz_signature)) return std::make_unique<XzSource>(std::move(file));
  if (signature.starts_with(gzip_signature)) return std::make_unique<GzipSource>(std::move(file));
  if (signature.starts_with(zstd_signature)) return std::make_unique<ZstdSource>(std::move(file));
  return file;
}

bool LineReader::next(std::string& line) {
  line.clear();
  while (true) {
    const size_t newline = block_.find('\n', begin_);
    if (newline != std::string::npos) {
      line.append(block_, begin_, newline - begin_);
      begin_ = newline + 1;
      terminated_ = true;
      ++number_;
      return true;
    }
    line.append(block_, begin_, std::string::npos);
    begin_ = 0;
    if (line.size() > longest) {
      ++number_;
      fail(where(), "a line is too long", fmt::format("more than {} bytes", longest),
           "split the file, one document on each line");
    }
    block_.resize(block_size);
    block_.resize(source_->read(block_.data(), block_.size()));
    if (block_.empty()) {
      if (line.empty()) return false;
      terminated_ = false;
      ++number_;
      return true;
    }
  }
}

std::string LineReader::where() const { return fmt::format("{}, line {}", path_, number_); }

}  // namespace nibble
