#include "data/shard_writer.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "data/hdf5.hpp"
#include "data/shard_format.hpp"
#include "fmt/format.h"

namespace nibble {

/// An unnamed temporary file that grows, and is then copied into a dataset.
class ShardWriter::Spool {
 public:
  explicit Spool(const std::string& target) : target_(target) {
    const std::filesystem::path name = temporary_name(target);
    file_ = std::fopen(name.c_str(), "w+bx");
    if (file_ == nullptr) fail("cannot create a temporary file");
    std::remove(name.c_str());  // the open file stays until it is closed, whatever happens to the process
  }
  ~Spool() { std::fclose(file_); }
  Spool(const Spool&) = delete;
  Spool& operator=(const Spool&) = delete;

  void append(const void* data, size_t bytes) {
    if (std::fwrite(data, 1, bytes, file_) != bytes) fail("cannot write a temporary file");
  }

  void copy_to(hdf5::File& file, const std::string& dataset, DType type, int64_t count) {
    file.create_dataset(dataset, type, {count});
    if (std::fflush(file_) != 0) fail("cannot write a temporary file");
    std::rewind(file_);
    const auto in_block = static_cast<int64_t>((size_t{4} << 20) / size_of(type));
    Buffer block(static_cast<size_t>(in_block) * size_of(type), "copying tokens");
    for (int64_t first = 0; first < count; first += in_block) {
      const int64_t part = std::min(in_block, count - first);
      if (std::fread(block.data(), size_of(type), static_cast<size_t>(part), file_) != static_cast<size_t>(part))
        fail("cannot read a temporary file back");
      file.write_range(dataset, first, Tensor(type, block.data(), 1, part));
    }
  }

 private:
  [[noreturn]] void fail(std::string what) const {
    throw Error({.kind = ErrorKind::resource,
                 .what = std::move(what),
                 .where = "beside " + target_,
                 .seen = std::strerror(errno),
                 .next = "free disk space: a shard needs twice its size while it is written"});
  }

  std::string target_;
  std::FILE* file_;
};

ShardWriter::ShardWriter(const std::string& path, const Tokenizer& tokenizer)
    : tokenizer_(tokenizer),
      path_(path),
      file_(path),
      token_spool_(std::make_unique<Spool>(path)),
      offset_spool_(std::make_unique<Spool>(path)),
      bytes_spool_(std::make_unique<Spool>(path)),
      wide_(tokenizer.vocabulary() > 65536) {
  const int64_t first = 0;
  offset_spool_->append(&first, sizeof first);
}

ShardWriter::~ShardWriter() = default;

void ShardWriter::add(const std::vector<int32_t>& ids, int64_t prompt_tokens, int64_t text_bytes) {
  if (ids.empty()) return;
  if (wide_) {
    token_spool_->append(ids.data(), ids.size() * sizeof(int32_t));
  } else {
    uint16_t block[4096];
    for (size_t first = 0; first < ids.size(); first += std::size(block)) {
      const size_t count = std::min(std::size(block), ids.size() - first);
      for (size_t i = 0; i < count; ++i) block[i] = static_cast<uint16_t>(ids[first + i]);
      token_spool_->append(block, count * sizeof(uint16_t));
    }
  }
  if (prompt_tokens > 0 && !mask_spool_) {
    mask_spool_ = std::make_unique<Spool>(path_);
    append_mask(tokens_, 1);  // of the documents so far
  }
  if (mask_spool_) {
    append_mask(prompt_tokens, 0);
    append_mask(static_cast<int64_t>(ids.size()) - prompt_tokens, 1);
  }

  tokens_ += static_cast<int64_t>(ids.size());
  text_bytes_ += text_bytes;
  ++documents_;
  offset_spool_->append(&tokens_, sizeof tokens_);
  bytes_spool_->append(&text_bytes, sizeof text_bytes);
}

void ShardWriter::append_mask(int64_t count, uint8_t value) {
  const std::vector<uint8_t> block(static_cast<size_t>(std::min<int64_t>(count, 1 << 16)), value);
  for (; count > 0; count -= static_cast<int64_t>(block.size()))
    mask_spool_->append(block.data(), std::min(block.size(), static_cast<size_t>(count)));
}

void ShardWriter::finish() {
  if (documents_ == 0)
    throw Error({.kind = ErrorKind::data,
                 .what = "there is no document for the token shard",
                 .where = path_,
                 .seen = "0 documents",
                 .next = "name inputs that hold text"});
  hdf5::File file = hdf5::File::create(file_.path().string(), ErrorKind::resource, ShardHeader::size);
  token_spool_->copy_to(file, "tokens", wide_ ? DType::i32 : DType::u16, tokens_);
  offset_spool_->copy_to(file, "document_offsets", DType::i64, documents_ + 1);
  bytes_spool_->copy_to(file, "document_bytes", DType::i64, documents_);
  if (mask_spool_) mask_spool_->copy_to(file, "loss_mask", DType::u8, tokens_);
  for (const TokenizerFile& part : tokenizer_.files())
    file.write(shard_dataset_of(part.name), std::vector<uint8_t>(part.contents.begin(), part.contents.end()));
  const TokenizerInfo& info = tokenizer_.info();
  file.set_attribute("/", "schema", int64_t{ShardHeader::newest_schema});
  file.set_attribute("/", "tokenizer", std::string_view(info.identity));
  file.set_attribute("/", "tokenizer_hash", std::string_view(hex(info.hash)));
  file.set_attribute("/", "vocabulary", int64_t{info.vocabulary});
  file.set_attribute("/", "bos", int64_t{info.bos});
  file.set_attribute("/", "eos", int64_t{info.eos});
  file.set_attribute("/", "pad", int64_t{info.pad});
  file.set_attribute("/", "text_bytes", text_bytes_);
  file.close();

  ShardHeader header;
  {
    const MappedFile written(file_.path(), ErrorKind::resource);
    header.file_length = written.bytes().size();
    header.checksum = checksum(written.bytes().subspan(ShardHeader::size));
  }
  const auto bytes = header.encode();
  std::fstream front(file_.path(), std::ios::binary | std::ios::in | std::ios::out);
  front.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  front.close();
  if (!front)
    throw Error({.kind = ErrorKind::resource,
                 .what = "cannot write the token shard's header",
                 .where = path_,
                 .seen = std::strerror(errno),
                 .next = "free disk space or choose another --output"});
  file_.commit();
}

}  // namespace nibble
