#include "trainer/safetensors.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>
#include <utility>

#include "data/json_fields.hpp"
#include "tensor/half.hpp"

namespace nibble {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors is little-endian");

using nlohmann::json;

/// The reference reader's bound on the header's length.
constexpr uint64_t longest_header = 100'000'000;
constexpr size_t longest_name = 1024;
constexpr uint64_t length_bytes = 8;
constexpr const char* metadata_key = "__metadata__";
constexpr const char* another_model = "the file is of another model: choose the right one";

struct DTypeName {
  std::string_view name;
  uint64_t bits;
};
/// All of the format's element types, in the order of the reference implementation, whose writer puts later ones first.
/// A file may hold types that Nibble does not read beside those that it does.
constexpr std::array dtype_names = {
    DTypeName{"BOOL", 8},    DTypeName{"F4", 4},          DTypeName{"F6_E2M3", 6},     DTypeName{"F6_E3M2", 6},
    DTypeName{"U8", 8},      DTypeName{"I8", 8},          DTypeName{"F8_E5M2", 8},     DTypeName{"F8_E4M3", 8},
    DTypeName{"F8_E8M0", 8}, DTypeName{"F8_E4M3FNUZ", 8}, DTypeName{"F8_E5M2FNUZ", 8}, DTypeName{"I16", 16},
    DTypeName{"U16", 16},    DTypeName{"F16", 16},        DTypeName{"BF16", 16},       DTypeName{"I32", 32},
    DTypeName{"U32", 32},    DTypeName{"F32", 32},        DTypeName{"C64", 64},        DTypeName{"F64", 64},
    DTypeName{"I64", 64},    DTypeName{"U64", 64}};

std::optional<uint64_t> bits_of(std::string_view name) {
  const auto found = std::ranges::find(dtype_names, name, &DTypeName::name);
  return found == dtype_names.end() ? std::nullopt : std::optional(found->bits);
}

std::string_view stored_name(DType type) {
  switch (type) {
    case DType::f32:
      return "F32";
    case DType::bf16:
      return "BF16";
    case DType::f64:
      return "F64";
    case DType::i32:
      return "I32";
    case DType::i64:
      return "I64";
    case DType::u8:
      return "U8";
    case DType::u16:
      return "U16";
    case DType::i8:
      return "I8";
  }
  return "";
}

/// The element type, widest first, then the name.
bool is_written_before(const OutputTensor& a, const OutputTensor& b) {
  const auto rank = [](const std::string& dtype) { return std::ranges::find(dtype_names, dtype, &DTypeName::name); };
  return a.dtype != b.dtype ? rank(a.dtype) > rank(b.dtype) : a.name < b.name;
}

[[noreturn]] void refuse(const std::filesystem::path& path, std::string what, std::string seen = {},
                         std::string allowed = {}, const std::string& tensor = {}) {
  throw Error({.kind = ErrorKind::checkpoint,
               .what = std::move(what),
               .where = tensor.empty() ? path.string() : fmt::format("{}: tensor {}", path.string(), tensor),
               .seen = std::move(seen),
               .allowed = std::move(allowed),
               .next = "the file is damaged or not a safetensors file: fetch or export it again"});
}

/// Of a sound file, but not what the caller's model has there.
[[noreturn]] void refuse_shape(const std::filesystem::path& path, const std::string& tensor,
                               const std::vector<int64_t>& seen, std::string allowed) {
  throw Error({.kind = ErrorKind::checkpoint,
               .what = "a tensor has another shape",
               .where = fmt::format("{}: tensor {}", path.string(), tensor),
               .seen = to_string(seen),
               .allowed = std::move(allowed),
               .next = another_model});
}

bool is_sane(const std::string& name) {
  return !name.empty() && name.size() <= longest_name &&
         std::ranges::none_of(name, [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

/// `bytes` hold packed rows of Source at any alignment.
template <class Source, class Target>
void convert(const std::byte* bytes, const Tensor& into) {
  for (int64_t i = 0; i < into.rows; ++i) {
    Target* row = into.row<Target>(i);
    const std::byte* source = bytes + static_cast<size_t>(i * into.cols) * sizeof(Source);
    for (int64_t j = 0; j < into.cols; ++j) {
      Source value;
      std::memcpy(&value, source + static_cast<size_t>(j) * sizeof(Source), sizeof value);
      row[j] = Target(static_cast<float>(value));
    }
  }
}

template <class Target>
bool convert_from(std::string_view dtype, const std::byte* bytes, const Tensor& into) {
  if (dtype == "F32") convert<float, Target>(bytes, into);
  else if (dtype == "BF16") convert<bf16, Target>(bytes, into);
  else if (dtype == "F16") convert<Half, Target>(bytes, into);
  else if (dtype == "F64") convert<double, Target>(bytes, into);
  else return false;
  return true;
}

template <class Source, class Target>
void give_converted(const Tensor& tensor, const ByteSink& sink) {
  std::vector<Target> row(static_cast<size_t>(tensor.cols));
  for (int64_t i = 0; i < tensor.rows; ++i) {
    const Source* source = tensor.row<Source>(i);
    for (int64_t j = 0; j < tensor.cols; ++j) row[static_cast<size_t>(j)] = Target(static_cast<float>(source[j]));
    sink(std::as_bytes(std::span(row)));
  }
}

void give(const Tensor& tensor, DType stored, const ByteSink& sink) {
  if (stored == tensor.dtype) {
    for (int64_t i = 0; i < tensor.rows; ++i) {
      const Tensor row = tensor.slice_rows(i, 1);
      sink({static_cast<const std::byte*>(row.data), row.bytes()});
    }
  } else if (tensor.dtype == DType::f32) {
    give_converted<float, bf16>(tensor, sink);
  } else {
    give_converted<bf16, float>(tensor, sink);
  }
}

TensorGroup group_of(const SafetensorsItem& item) {
  const Tensor& tensor = item.tensor;
  const auto is_float = [](DType type) { return type == DType::f32 || type == DType::bf16; };
  if (item.stored != tensor.dtype && !(is_float(item.stored) && is_float(tensor.dtype)))
    throw Error({.kind = ErrorKind::internal,
                 .what = "a tensor cannot be stored in this element type",
                 .where = item.name,
                 .seen = fmt::format("{} as {}", name(tensor.dtype), name(item.stored)),
                 .allowed = "its own type, f32 as bf16, bf16 as f32"});
  return {.tensors = {{item.name, std::string(stored_name(item.stored)), item.shape, item.bytes()}},
          .write = [tensor, stored = item.stored](std::span<const ByteSink> sinks) { give(tensor, stored, sinks[0]); }};
}

/// The header's length and text, padded so that the data starts 8-aligned.
std::string header_bytes(const nlohmann::ordered_json& header) {
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  text.insert(0, reinterpret_cast<const char*>(&length), sizeof length);
  return text;
}

}  // namespace

std::string to_string(const std::vector<int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

int64_t SafetensorsEntry::cols() const { return shape.empty() ? 1 : shape.back(); }
int64_t SafetensorsEntry::rows() const {
  int64_t product = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) product *= shape[i];
  return product;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path, ErrorKind::checkpoint) {
  parse_header();
}

void SafetensorsFile::parse_header() {
  const auto& path = file_.path();
  const std::span<const std::byte> all = file_.bytes();
  if (all.size() < length_bytes)
    refuse(path, "the file is too short to be safetensors", fmt::format("{} bytes", all.size()));
  uint64_t length;
  std::memcpy(&length, all.data(), sizeof length);
  if (length > longest_header || length > all.size() - length_bytes)
    refuse(path, "the header's length cannot be", fmt::format("{} bytes in a file of {}", length, all.size()),
           fmt::format("at most {} and within the file", longest_header));
  const std::string_view text(reinterpret_cast<const char*>(all.data()) + length_bytes, length);
  if (!text.starts_with('{')) refuse(path, "the header is not a JSON object");
  data_ = all.subspan(length_bytes + length);

  const json header = parse_json(text, path.string(), ErrorKind::checkpoint);
  for (const auto& [name, value] : header.items()) {
    if (name == metadata_key) {
      const JsonFields fields(value, path.string() + ": __metadata__", ErrorKind::checkpoint);
      for (const auto& item : value.items()) metadata_[item.key()] = fields.text(item.key());
      continue;
    }
    if (!is_sane(name)) refuse(path, "a tensor's name cannot be", excerpt(name), "1 to 1024 printable characters");
    const JsonFields fields(value, fmt::format("{}: tensor {}", path.string(), name), ErrorKind::checkpoint);
    SafetensorsEntry entry;
    entry.dtype = fields.text("dtype");
    const std::optional<uint64_t> bits = bits_of(entry.dtype);
    if (!bits) {
      std::vector<std::string_view> known;
      for (const DTypeName& dtype : dtype_names) known.push_back(dtype.name);
      fields.refuse("dtype", "an unknown element type", fmt::format("{}", fmt::join(known, ", ")));
    }
    uint64_t size_bits = *bits;
    for (const json& dimension : fields.array("shape")) {
      if (!dimension.is_number_unsigned() ||
          dimension.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) ||
          __builtin_mul_overflow(size_bits, dimension.get<uint64_t>(), &size_bits))
        fields.refuse("shape", "a shape cannot be", "whole numbers whose product is a number of bytes");
      entry.shape.push_back(dimension.get<int64_t>());
    }
    const json& offsets = fields.array("data_offsets");
    if (offsets.size() != 2 || !offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned())
      fields.refuse("data_offsets", "offsets cannot be", "[begin, end]");
    entry.begin = offsets[0].get<uint64_t>();
    entry.end = offsets[1].get<uint64_t>();
    if (entry.begin > entry.end || entry.end > data_.size())
      fields.refuse("data_offsets", "a tensor does not lie within the file's data",
                    fmt::format("begin <= end <= {}", data_.size()));
    if (size_bits % 8 != 0 || size_bits / 8 != entry.end - entry.begin)
      fields.refuse("data_offsets", "the size of a tensor is not that of its shape and element type",
                    fmt::format("{} bits: {} of shape {}", size_bits, entry.dtype, to_string(entry.shape)));
    entries_.emplace(name, std::move(entry));
  }

  std::vector<std::pair<std::pair<uint64_t, uint64_t>, std::string>> ranges;
  for (const auto& [name, entry] : entries_) ranges.push_back({{entry.begin, entry.end}, name});
  std::ranges::sort(ranges);
  uint64_t covered = 0;
  std::string before;  // the tensor that ends there
  for (const auto& [range, name] : ranges) {
    const auto [begin, end] = range;
    if (begin != covered)
      refuse(path, begin > covered ? "bytes of the data belong to no tensor" : "two tensors overlap",
             fmt::format("it begins at byte {}", begin),
             before.empty() ? "the first tensor at byte 0" : fmt::format("at byte {}, where {} ends", covered, before),
             name);
    covered = end;
    before = name;
  }
  if (covered != data_.size())
    refuse(path, "the data is longer than its tensors", fmt::format("{} bytes", data_.size()),
           fmt::format("{} bytes", covered));
}

std::string SafetensorsFile::names() const {
  constexpr size_t shown = 4;
  std::vector<std::string_view> first;
  for (auto entry = entries_.begin(); entry != entries_.end() && first.size() < shown; ++entry)
    first.push_back(entry->first);
  return fmt::format("{} tensors: {}{}", entries_.size(), fmt::join(first, ", "),
                     entries_.size() > shown ? ", ..." : "");
}

const SafetensorsEntry& SafetensorsFile::entry(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end())
    throw Error({.kind = ErrorKind::checkpoint,
                 .what = "a tensor is missing",
                 .where = fmt::format("{}: tensor {}", path().string(), name),
                 .seen = names(),
                 .allowed = "a file with this tensor",
                 .next = another_model});
  return found->second;
}

std::span<const std::byte> SafetensorsFile::bytes(const std::string& name) const {
  const SafetensorsEntry& found = entry(name);
  return data_.subspan(found.begin, found.end - found.begin);
}

void SafetensorsFile::read(const std::string& name, const Tensor& into) const {
  const SafetensorsEntry& found = entry(name);
  if (found.rows() != into.rows) refuse_shape(path(), name, found.shape, fmt::format("[{}, {}]", into.rows, into.cols));
  read_rows(name, 0, into);
}

void SafetensorsFile::read_rows(const std::string& name, int64_t first, const Tensor& into) const {
  const SafetensorsEntry& found = entry(name);
  if (found.cols() != into.cols || first < 0 || first > found.rows() - into.rows)
    refuse_shape(path(), name, found.shape,
                 fmt::format("rows {} to {} of {} elements", first, first + into.rows, into.cols));
  if (into.size() == 0) return;
  const uint64_t row_bytes = (found.end - found.begin) / static_cast<uint64_t>(found.rows());
  const std::byte* source = data_.data() + found.begin + static_cast<uint64_t>(first) * row_bytes;
  if (found.dtype == stored_name(into.dtype)) {
    for (int64_t i = 0; i < into.rows; ++i)
      std::memcpy(into.slice_rows(i, 1).data, source + static_cast<uint64_t>(i) * row_bytes, row_bytes);
    return;
  }
  const bool converted = into.dtype == DType::f32    ? convert_from<float>(found.dtype, source, into)
                         : into.dtype == DType::bf16 ? convert_from<bf16>(found.dtype, source, into)
                                                     : false;
  if (!converted)
    throw Error({.kind = ErrorKind::checkpoint,
                 .what = fmt::format("a tensor cannot be read as {}", nibble::name(into.dtype)),
                 .where = fmt::format("{}: tensor {}", path().string(), name),
                 .seen = found.dtype,
                 .allowed = fmt::format("F32, BF16, F16, F64 as f32 or bf16; {} as it is", stored_name(into.dtype)),
                 .next = "quantized models must be converted to F32, BF16 or F16 first"});
}

void write_safetensors(AtomicFile& file, std::span<const TensorGroup> groups,
                       const std::map<std::string, std::string>& metadata, const BytesProgress& progress) {
  struct Placed {
    const OutputTensor* tensor;
    size_t number;  // in the order of the groups
  };
  std::vector<Placed> tensors;
  for (const TensorGroup& group : groups)
    for (const OutputTensor& tensor : group.tensors) tensors.push_back({&tensor, tensors.size()});
  std::ranges::sort(tensors, [](const Placed& a, const Placed& b) { return is_written_before(*a.tensor, *b.tensor); });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[metadata_key] = metadata;
  std::vector<uint64_t> offsets(tensors.size());
  uint64_t offset = 0;
  for (const auto& [tensor, number] : tensors) {
    assert(is_sane(tensor->name) && tensor->name != metadata_key && !header.contains(tensor->name));
    assert(bits_of(tensor->dtype));
    nlohmann::ordered_json& entry = header[tensor->name];
    entry["dtype"] = tensor->dtype;
    entry["shape"] = tensor->shape;
    entry["data_offsets"] = {offset, offset + tensor->bytes};
    offsets[number] = offset;
    offset += tensor->bytes;
  }
  const std::string bytes = header_bytes(header);
  file.write_at(0, bytes_of(bytes));
  for (uint64_t& begin : offsets) begin += bytes.size();
  write_groups(file, groups, offsets, progress);
}

void write_safetensors(const std::filesystem::path& path, const std::vector<SafetensorsItem>& items,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<TensorGroup> groups;
  for (const SafetensorsItem& item : items) groups.push_back(group_of(item));
  AtomicFile file(path);
  write_safetensors(file, groups, metadata);
  file.commit();
}

void replace_safetensors_metadata(const std::filesystem::path& path,
                                  const std::map<std::string, std::string>& metadata) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  uint64_t length = 0;
  file.read(reinterpret_cast<char*>(&length), sizeof length);
  std::string text(file ? length : 0, ' ');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file) {
    auto header = nlohmann::ordered_json::parse(text);
    header[metadata_key] = metadata;
    const std::string bytes = header_bytes(header);
    if (bytes.size() != sizeof length + length)
      throw Error({.kind = ErrorKind::internal, .what = "metadata of another length", .where = path.string()});
    file.seekp(0);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    file.flush();
  }
  if (!file)
    throw Error({.kind = ErrorKind::resource, .what = "cannot write the metadata of a file", .where = path.string()});
  sync_file(path);
}

}  // namespace nibble
