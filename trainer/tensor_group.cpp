#include "trainer/tensor_group.hpp"

#include <fmt/format.h>

#include <memory>

namespace nibble {
namespace {

/// Puts what it is given behind each other, in pieces of about a megabyte.
class PlacedWriter {
 public:
  PlacedWriter(AtomicFile& file, const OutputTensor& tensor, uint64_t offset)
      : file_(file), tensor_(tensor), offset_(offset) {}

  void append(std::span<const std::byte> bytes) {
    given_ += bytes.size();
    if (given_ > tensor_.bytes) refuse();
    if (buffer_.size() + bytes.size() > capacity) flush();
    if (bytes.size() >= capacity) put(bytes);
    else buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
  void finish() {
    flush();
    if (given_ != tensor_.bytes) refuse();
  }

 private:
  static constexpr size_t capacity = size_t{1} << 20;

  void flush() {
    put(buffer_);
    buffer_.clear();
  }
  void put(std::span<const std::byte> bytes) {
    file_.write_at(offset_, bytes);
    offset_ += bytes.size();
  }
  [[noreturn]] void refuse() const {
    throw Error({.kind = ErrorKind::internal,
                 .what = "a tensor was encoded in another number of bytes than it said",
                 .where = tensor_.name,
                 .seen = fmt::format("{} so far", given_),
                 .allowed = fmt::format("{}", tensor_.bytes)});
  }

  AtomicFile& file_;
  const OutputTensor& tensor_;
  uint64_t offset_, given_ = 0;
  std::vector<std::byte> buffer_;
};

}  // namespace

uint64_t TensorGroup::bytes() const {
  uint64_t sum = 0;
  for (const OutputTensor& tensor : tensors) sum += tensor.bytes;
  return sum;
}

void write_groups(AtomicFile& file, std::span<const TensorGroup> groups, std::span<const uint64_t> offsets,
                  const BytesProgress& progress) {
  uint64_t all = 0, done = 0;
  for (const TensorGroup& group : groups) all += group.bytes();
  for (const TensorGroup& group : groups) {
    std::vector<std::unique_ptr<PlacedWriter>> writers;
    std::vector<ByteSink> sinks;
    for (const OutputTensor& tensor : group.tensors) {
      PlacedWriter* const writer =
          writers.emplace_back(std::make_unique<PlacedWriter>(file, tensor, offsets[writers.size()])).get();
      sinks.emplace_back([writer, &progress, &done, all](std::span<const std::byte> bytes) {
        writer->append(bytes);
        done += bytes.size();
        if (progress) progress(done, all);
      });
    }
    group.write(sinks);
    for (const auto& writer : writers) writer->finish();
    offsets = offsets.subspan(writers.size());
  }
}

}  // namespace nibble
