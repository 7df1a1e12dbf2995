#include "trainer/gguf.hpp"

#include <fmt/format.h>

#include <bit>
#include <cassert>
#include <cstring>
#include <fstream>
#include <type_traits>

namespace nibble {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF is little-endian");

constexpr std::string_view magic = "GGUF";
constexpr uint32_t version = 3;
constexpr size_t longest_name = 64;  // of a tensor: GGML_MAX_NAME
constexpr size_t most_dimensions = 4;

/// enum gguf_type
enum ValueType : uint32_t { u32 = 4, i32 = 5, f32 = 6, boolean = 7, text = 8, array = 9, f64 = 12 };

template <class T>
constexpr ValueType value_type() {
  if constexpr (std::is_same_v<T, uint32_t>) return u32;
  else if constexpr (std::is_same_v<T, int32_t>) return i32;
  else if constexpr (std::is_same_v<T, float>) return f32;
  else if constexpr (std::is_same_v<T, double>) return f64;
  else if constexpr (std::is_same_v<T, bool>) return boolean;
  else if constexpr (std::is_same_v<T, std::string>) return text;
  else return array;
}

uint64_t aligned(uint64_t offset) { return (offset + gguf_alignment - 1) / gguf_alignment * gguf_alignment; }

class Bytes {
 public:
  template <class T>
  requires std::is_arithmetic_v<T>
  void add(T value) { bytes_.append(reinterpret_cast<const char*>(&value), sizeof value); }
  void add(const std::string& value) {
    add(static_cast<uint64_t>(value.size()));
    bytes_ += value;
  }
  template <class T>
  void add(const std::vector<T>& values) {
    add(static_cast<uint32_t>(value_type<T>()));
    add(static_cast<uint64_t>(values.size()));
    for (const T& value : values) add(value);
  }
  void add_raw(std::string_view raw) { bytes_ += raw; }
  const std::string& str() const { return bytes_; }

 private:
  std::string bytes_;
};

/// Reads front to back, and never beyond the end.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::filesystem::path& path) : bytes_(bytes), path_(path) {}

  uint64_t position() const { return position_; }

  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string string() {
    const std::span<const std::byte> taken = take(number<uint64_t>());
    return {reinterpret_cast<const char*>(taken.data()), taken.size()};
  }
  template <class T>
  T value() {
    if constexpr (std::is_same_v<T, std::string>) return string();
    else if constexpr (std::is_same_v<T, bool>) return number<uint8_t>() != 0;
    else return number<T>();
  }
  template <class T>
  std::vector<T> values() {
    const auto count = number<uint64_t>();
    std::vector<T> result;
    for (uint64_t i = 0; i < count; ++i) result.push_back(value<T>());
    return result;
  }
  GgufValue any(uint32_t type) {
    switch (type) {
      case u32:
        return value<uint32_t>();
      case f32:
        return value<float>();
      case f64:
        return value<double>();
      case boolean:
        return value<bool>();
      case text:
        return value<std::string>();
      case array:
        switch (const auto element = number<uint32_t>(); element) {
          case text:
            return values<std::string>();
          case f32:
            return values<float>();
          case i32:
            return values<int32_t>();
          default:
            refuse("an array's elements are of a type that is not read", fmt::format("{}", element),
                   "strings, f32 or i32");
        }
      default:
        refuse("a value is of a type that is not read", fmt::format("{}", type), "u32, f32, f64, bool, string, array");
    }
  }

  [[noreturn]] void refuse(std::string what, std::string seen = {}, std::string allowed = {}) const {
    throw Error({.kind = ErrorKind::checkpoint,
                 .what = std::move(what),
                 .where = fmt::format("{}, byte {}", path_.string(), position_),
                 .seen = std::move(seen),
                 .allowed = std::move(allowed),
                 .next = "the file is damaged or was written by another program: export it again"});
  }

 private:
  std::span<const std::byte> take(uint64_t count) {
    if (count > bytes_.size() - position_) refuse("the file ends too early", fmt::format("{} bytes", bytes_.size()));
    const std::span<const std::byte> taken = bytes_.subspan(position_, count);
    position_ += count;
    return taken;
  }

  std::span<const std::byte> bytes_;
  const std::filesystem::path& path_;
  uint64_t position_ = 0;
};

}  // namespace

void write_gguf(AtomicFile& file, const GgufMetadata& metadata, std::span<const TensorGroup> groups,
                const BytesProgress& progress) {
  uint64_t tensors = 0;
  for (const TensorGroup& group : groups) tensors += group.tensors.size();
  Bytes header;
  header.add_raw(magic);
  header.add(version);
  header.add(tensors);
  header.add(static_cast<uint64_t>(metadata.size()));
  for (const auto& [key, value] : metadata) {
    header.add(key);
    std::visit(
        [&](const auto& held) {
          header.add(static_cast<uint32_t>(value_type<std::decay_t<decltype(held)>>()));
          header.add(held);
        },
        value);
  }
  std::vector<uint64_t> offsets;
  uint64_t end = 0;
  for (const TensorGroup& group : groups)
    for (const OutputTensor& tensor : group.tensors) {
      assert(!tensor.name.empty() && tensor.name.size() < longest_name && tensor.shape.size() <= most_dimensions);
      offsets.push_back(aligned(end));
      end = offsets.back() + tensor.bytes;
      header.add(tensor.name);
      header.add(static_cast<uint32_t>(tensor.shape.size()));
      for (auto dimension = tensor.shape.rbegin(); dimension != tensor.shape.rend(); ++dimension)
        header.add(static_cast<uint64_t>(*dimension));
      header.add(row_type(tensor.dtype).gguf_type);
      header.add(offsets.back());
    }
  const uint64_t data = aligned(header.str().size());
  file.write_at(0, bytes_of(header.str()));
  for (uint64_t& offset : offsets) offset += data;
  write_groups(file, groups, offsets, progress);
  // The last tensor is padded, too: readers take the padding of each for granted.
  constexpr std::byte zeros[gguf_alignment]{};
  file.write_at(data + end, std::span(zeros).first(aligned(end) - end));
}

GgufFile::GgufFile(const std::filesystem::path& path) : file_(path, ErrorKind::checkpoint) {
  Cursor cursor(file_.bytes(), path);
  if (file_.bytes().size() < magic.size() || std::memcmp(file_.bytes().data(), magic.data(), magic.size()) != 0)
    cursor.refuse("the file is not GGUF");
  cursor.number<uint32_t>();
  if (const auto seen = cursor.number<uint32_t>(); seen != version)
    cursor.refuse("another version of GGUF", fmt::format("{}", seen), fmt::format("{}", version));
  const auto tensors = cursor.number<uint64_t>(), keys = cursor.number<uint64_t>();
  for (uint64_t i = 0; i < keys; ++i) {
    const std::string key = cursor.string();
    const auto type = cursor.number<uint32_t>();
    value_offsets_[key] = cursor.position();
    metadata_[key] = cursor.any(type);
  }
  for (uint64_t i = 0; i < tensors; ++i) {
    const std::string name = cursor.string();
    GgufEntry entry;
    const auto dimensions = cursor.number<uint32_t>();
    if (dimensions == 0 || dimensions > most_dimensions)
      cursor.refuse("a tensor's number of dimensions cannot be", fmt::format("{}", dimensions));
    for (uint32_t j = 0; j < dimensions; ++j)
      entry.shape.insert(entry.shape.begin(), static_cast<int64_t>(cursor.number<uint64_t>()));
    const auto type = cursor.number<uint32_t>();
    entry.type = find_row_type(type);
    if (!entry.type) cursor.refuse("a tensor's element type is not read", fmt::format("{}: {}", name, type));
    entry.begin = cursor.number<uint64_t>();
    tensors_[name] = std::move(entry);
  }
  const uint64_t data = aligned(cursor.position()), size = file_.bytes().size();
  for (auto& [name, entry] : tensors_) {
    int64_t elements = 1;
    bool sound = data <= size && entry.begin <= size - data;
    for (const int64_t dimension : entry.shape)
      sound = sound && dimension > 0 && !__builtin_mul_overflow(elements, dimension, &elements);
    sound = sound && entry.cols() % entry.type->block == 0 && elements <= static_cast<int64_t>(size) * 8 &&
            entry.type->bytes_of(elements) <= size - data - entry.begin;
    if (!sound) cursor.refuse("a tensor does not lie within the file", name);
    entry.begin += data;
  }
}

const GgufEntry& GgufFile::tensor(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end())
    throw Error({.kind = ErrorKind::checkpoint,
                 .what = "a tensor is missing",
                 .where = fmt::format("{}: tensor {}", path().string(), name),
                 .seen = fmt::format("{} other tensors", tensors_.size()),
                 .next = "the file is damaged or holds another model: export it again"});
  return found->second;
}

void GgufFile::read_row(const GgufEntry& tensor, int64_t row, std::span<float> values) const {
  assert(static_cast<int64_t>(values.size()) == tensor.cols());
  tensor.type->decode(
      file_.bytes().data() + tensor.begin + static_cast<uint64_t>(row) * tensor.type->bytes_of(tensor.cols()), values);
}

void replace_gguf_values(const std::filesystem::path& path, const std::map<std::string, double>& values) {
  std::map<uint64_t, double> by_offset;
  {
    const GgufFile file(path);
    for (const auto& [key, value] : values) {
      assert(std::holds_alternative<double>(file.metadata().at(key)));
      by_offset[file.value_offset(key)] = value;
    }
  }
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  for (const auto& [offset, value] : by_offset) {
    file.seekp(static_cast<std::streamoff>(offset));
    file.write(reinterpret_cast<const char*>(&value), sizeof value);
  }
  file.flush();
  if (!file)
    throw Error({.kind = ErrorKind::resource, .what = "cannot write the metadata of a file", .where = path.string()});
  sync_file(path);
}

}  // namespace nibble
