#include "trainer/packed_groups.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "quant/quantize.hpp"
#include "tensor/convert.hpp"
#include "trainer/huggingface_weights.hpp"
#include "trainer/packed_weights.hpp"

namespace nibble {
namespace {

constexpr int64_t square = 16;  ///< rows that may share scales

std::span<const std::byte> bytes_of(const Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.data), tensor.bytes()};
}
std::span<const std::byte> bytes_of(const float& number) { return std::as_bytes(std::span(&number, 1)); }

/// The parameters of a buffer, by number.
std::vector<size_t> parts_of(const WeightSource& source, int buffer) {
  std::vector<size_t> parts;
  for (size_t i = 0; i < source.parameters(); ++i)
    if (source.info(i).buffer == buffer) parts.push_back(i);
  return parts;
}

/// Rows of a parameter in the type that training quantizes, some whole squares at a time.
template <class Action>
void for_each_rows(WeightSource& source, size_t parameter, DType working, Action&& action) {
  const ParameterInfo& info = source.info(parameter);
  const int64_t chunk = std::min(info.rows, std::max<int64_t>(rows_at_once(info.cols) / square, 1) * square);
  const OwnedTensor rows(working, chunk, info.cols, "export");
  for (int64_t first = 0; first < info.rows; first += chunk) {
    const Tensor these = rows.view().slice_rows(0, std::min(chunk, info.rows - first));
    source.read_rows(parameter, first, these);
    action(these);
  }
}

/// Of all rows of a buffer.
float magnitude_of(Stream& stream, WeightSource& source, int buffer, DType working) {
  float largest = 0;
  for (const size_t parameter : parts_of(source, buffer))
    for_each_rows(source, parameter, working, [&](const Tensor& rows) {
      largest = std::max(largest, packed_magnitude(stream, rows, source.info(parameter).name));
    });
  return largest;
}

uint64_t bytes_of_type(const std::string& dtype) { return dtype == "F32" ? 4 : 1; }

/// `sinks` are those of packed_tensors.
void write_matrix(Stream& stream, WeightSource& source, size_t parameter, const PackingPlan& plan,
                  const Quantizer& quantizer, float magnitude, std::span<const ByteSink> sinks) {
  float tensor_scale = 1;
  for_each_rows(source, parameter, plan.working, [&](const Tensor& rows) {
    const PackedRows packed = pack_rows(stream, quantizer, rows, magnitude);
    sinks[0](bytes_of(packed.codes.view()));
    if (packed.scales.view()) sinks[1](bytes_of(packed.scales.view()));
    if (packed.row_scales.view()) sinks[1](bytes_of(packed.row_scales.view()));
    tensor_scale = packed.tensor_scale;
  });
  if (quantizer.needs_tensor_statistic())
    sinks.back()(bytes_of(stored_tensor_scale(plan.format, tensor_scale, source.info(parameter).name)));
}

TensorGroup packed_group(Stream& stream, WeightSource& source, const PackingPlan& plan, int buffer,
                         std::span<const float> input_scales) {
  const PackedProjection& projection = *plan.buffers[static_cast<size_t>(buffer)];
  const std::vector<size_t> parts = parts_of(source, buffer);
  TensorGroup group;
  for (const size_t parameter : parts) {
    const ParameterInfo& info = source.info(parameter);
    const std::string module = module_of(info.name) + ".";
    for (const PackedTensor& tensor : packed_tensors(projection.quantizer, info.rows, info.cols)) {
      uint64_t bytes = bytes_of_type(tensor.dtype);
      for (const int64_t dimension : tensor.shape) bytes *= static_cast<uint64_t>(dimension);
      group.tensors.push_back({module + tensor.suffix, tensor.dtype, tensor.shape, bytes});
    }
    if (!input_scales.empty()) group.tensors.push_back({module + "input_global_scale", "F32", {1}, sizeof(float)});
  }
  std::optional<float> input_scale;
  if (!input_scales.empty()) input_scale = input_scales[static_cast<size_t>(buffer)];
  group.write = [&stream, &source, &plan, &projection, buffer, parts, input_scale](std::span<const ByteSink> sinks) {
    const float magnitude = magnitude_of(stream, source, buffer, plan.working);
    const size_t each = sinks.size() / parts.size();
    for (size_t i = 0; i < parts.size(); ++i) {
      const std::span<const ByteSink> own = sinks.subspan(i * each, each);
      write_matrix(stream, source, parts[i], plan, projection.quantizer, magnitude,
                   own.first(each - (input_scale ? 1 : 0)));
      if (input_scale) own.back()(bytes_of(*input_scale));
    }
  };
  return group;
}

}  // namespace

std::vector<TensorGroup> packed_groups(Stream& stream, WeightSource& source, const PackingPlan& plan,
                                       const RowType& other, std::span<const float> input_scales) {
  std::vector<TensorGroup> groups;
  int before = -1;
  for (size_t i = 0; i < source.parameters(); ++i) {
    const ParameterInfo& info = source.info(i);
    if (!plan.buffers[static_cast<size_t>(info.buffer)])
      groups.push_back(encode_rows(source, i, info.name, huggingface_shape(info),
                                   info.kind == ParameterKind::norm ? row_type("F32") : other));
    else if (info.buffer != before) groups.push_back(packed_group(stream, source, plan, info.buffer, input_scales));
    before = info.buffer;
  }
  return groups;
}

MultipliedWeights::MultipliedWeights(Stream& stream, WeightSource& source, const PackingPlan& plan)
    : WeightSource(source.config()),
      stream_(stream),
      source_(source),
      plan_(plan),
      magnitudes_(layout().buffers().size(), -1.0f) {}

void MultipliedWeights::read_rows(size_t parameter, int64_t first, const Tensor& into) {
  const int buffer = info(parameter).buffer;
  const auto& projection = plan_.buffers[static_cast<size_t>(buffer)];
  if (is_vector(info(parameter).kind)) return source_.read_rows(parameter, first, into);
  if (!projection || !projection->trained()) {
    const OwnedTensor working(plan_.working, into.rows, into.cols);
    source_.read_rows(parameter, first, working);
    return convert(stream_, working, into);
  }
  float& magnitude = magnitudes_[static_cast<size_t>(buffer)];
  if (magnitude < 0) magnitude = magnitude_of(stream_, source_, buffer, plan_.working);
  // Whole squares around the rows.
  const int64_t begin = first / square * square,
                end = std::min((first + into.rows + square - 1) / square * square, info(parameter).rows);
  const OwnedTensor given(plan_.working, end - begin, into.cols), values(DType::f32, end - begin, into.cols),
      scales(DType::f32, 1, end - begin);
  source_.read_rows(parameter, begin, given);
  const Quantizer& quantizer = projection->quantizer;
  const Operand operand = quantize(stream_, {.values = given}, {.quantizer = quantizer}, magnitude, values,
                                   quantizer.extent == Extent::row ? scales.view() : Tensor());
  const float factor = value_of(stream_, operand.factor);
  for (int64_t i = 0; i < into.rows; ++i) {
    float* const row = values.view().row<float>(first - begin + i);
    const float scale = operand.row_scale ? scales.view().as<float>()[first - begin + i] : factor;
    for (int64_t j = 0; j < into.cols; ++j) row[j] *= scale;
  }
  convert(stream_, values.view().slice_rows(first - begin, into.rows), into);
}

}  // namespace nibble
