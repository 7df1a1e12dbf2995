#include "trainer/row_type.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "tensor/half.hpp"
#include "trainer/ggml_blocks.hpp"

namespace nibble {
namespace {

template <class Element>
void encode_elements(std::span<const float> values, std::byte* bytes) {
  for (size_t i = 0; i < values.size(); ++i) {
    const Element element(values[i]);
    std::memcpy(bytes + i * sizeof element, &element, sizeof element);
  }
}

template <class Element>
void decode_elements(const std::byte* bytes, std::span<float> values) {
  for (size_t i = 0; i < values.size(); ++i) {
    Element element;
    std::memcpy(&element, bytes + i * sizeof element, sizeof element);
    values[i] = static_cast<float>(element);
  }
}

template <class Element>
constexpr RowType elements(std::string_view name, uint32_t gguf_type, uint32_t file_type, float largest) {
  return {.name = name,
          .block = 1,
          .block_bytes = sizeof(Element),
          .gguf_type = gguf_type,
          .file_type = file_type,
          .largest = largest,
          .encode = encode_elements<Element>,
          .decode = decode_elements<Element>};
}

constexpr float any = std::numeric_limits<float>::max();
constexpr std::array table = {elements<float>("F32", 0, 0, any),
                              elements<Half>("F16", 1, 1, 65519.0f),  // above, the nearest half is infinite
                              elements<bf16>("BF16", 30, 32, 0x1.fep127f),
                              RowType{"Q8_0", ggml_block, q8_0_bytes, 8, 7, largest_q8_0, encode_q8_0, decode_q8_0},
                              RowType{"Q4_0", ggml_block, q4_0_bytes, 2, 2, largest_q4_0, encode_q4_0, decode_q4_0},
                              RowType{"MXFP4", ggml_block, mxfp4_bytes, 39, 38, any, encode_mxfp4, decode_mxfp4}};

/// Row `row` of interleaved order, in rotate-half order.
int64_t rotate_half_row(int64_t row, int64_t head_dim) {
  const int64_t in_head = row % head_dim;
  return row - in_head + in_head % 2 * (head_dim / 2) + in_head / 2;
}

void encode(WeightSource& source, size_t parameter, const RowType& type, int64_t head_dim, const ByteSink& sink) {
  const ParameterInfo& info = source.info(parameter);
  int64_t chunk = std::min(info.rows, rows_at_once(info.cols));
  if (head_dim > 0) chunk = std::max<int64_t>(chunk / head_dim, 1) * head_dim;  // whole heads
  const OwnedTensor values(DType::f32, chunk, info.cols, "export");
  std::vector<std::byte> bytes(type.bytes_of(info.cols));
  for (int64_t first = 0; first < info.rows; first += chunk) {
    const Tensor rows = values.view().slice_rows(0, std::min(chunk, info.rows - first));
    source.read_rows(parameter, first, rows);
    for (int64_t i = 0; i < rows.rows; ++i) {
      const int64_t from = head_dim > 0 ? rotate_half_row(i, head_dim) : i;
      const std::span<const float> row(rows.row<float>(from), static_cast<size_t>(info.cols));
      for (const float value : row)
        if (std::abs(value) > type.largest)
          throw Error({.kind = ErrorKind::numerics,
                       .what = fmt::format("a weight is too large for {}", type.name),
                       .where = fmt::format("{}, row {}", info.name, first + from),
                       .seen = fmt::format("{}", value),
                       .allowed = fmt::format("magnitudes up to {}", type.largest),
                       .next = "export as bf16 or f32"});
      type.encode(row, bytes.data());
      sink(bytes);
    }
  }
}

}  // namespace

const RowType* find_row_type(uint32_t gguf_type) {
  const auto found = std::ranges::find(table, gguf_type, &RowType::gguf_type);
  return found == table.end() ? nullptr : &*found;
}

const RowType& row_type(std::string_view name) {
  const auto found = std::ranges::find(table, name, &RowType::name);
  if (found == table.end())
    throw Error({.kind = ErrorKind::internal, .what = "an unknown row type", .seen = std::string(name)});
  return *found;
}

TensorGroup encode_rows(WeightSource& source, size_t parameter, std::string name, std::vector<int64_t> shape,
                        const RowType& type, int64_t head_dim) {
  const ParameterInfo& info = source.info(parameter);
  if (info.cols % type.block != 0)
    throw Error({.kind = ErrorKind::configuration,
                 .what = fmt::format("{} stores blocks of {} elements, and the rows of a matrix are no whole blocks",
                                     type.name, type.block),
                 .where = info.name,
                 .seen = fmt::format("{} columns", info.cols),
                 .allowed = fmt::format("a multiple of {}", type.block),
                 .next = "export as f16 or bf16"});
  return {.tensors = {{std::move(name), std::string(type.name), std::move(shape), type.bytes_of(info.size())}},
          .write = [&source, parameter, &type, head_dim](std::span<const ByteSink> sinks) {
            encode(source, parameter, type, head_dim, sinks[0]);
          }};
}

}  // namespace nibble
