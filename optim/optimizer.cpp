#include "optim/optimizer.hpp"

#include <algorithm>
#include <cassert>

#include "optim/kernels.hpp"

namespace nibble {

std::vector<TensorBlock> tensor_blocks(std::span<const Tensor> tensors) {
  std::vector<TensorBlock> blocks;
  for (size_t i = 0; i < tensors.size(); ++i) {
    assert(tensors[i].contiguous());
    for (int64_t first = 0, size = tensors[i].size(); first < size; first += block_elements)
      blocks.push_back({static_cast<int64_t>(i), first, std::min(block_elements, size - first)});
  }
  return blocks;
}

std::vector<TensorBlock> row_blocks(const Tensor& matrix) {
  std::vector<TensorBlock> rows;
  for (int64_t i = 0; i < matrix.rows; ++i)
    rows.push_back({.tensor = 0, .first = i * matrix.cols, .count = matrix.cols});
  return rows;
}

std::vector<TensorBlock> master_blocks(std::span<const OptimizedParameter> parameters) {
  std::vector<Tensor> masters;
  for (const OptimizedParameter& parameter : parameters) masters.push_back(parameter.master);
  return tensor_blocks(masters);
}

Place masters_place(std::span<const OptimizedParameter> parameters) {
  return parameters.empty() ? Place::host : parameters.front().working.place;
}

void refresh_working_copies(Stream& stream, std::span<const OptimizedParameter> parameters) {
  round_masters(stream, parameters, master_blocks(parameters));
}

void add_state(StateList& list, const std::string& prefix, const OptimizedParameter& parameter, const Tensor& value) {
  const ParameterInfo& info = *parameter.info;
  const std::string name = prefix + "/" + info.name;
  if (parameter.owned) list.add_run(name, value, info.rows, info.cols, parameter.first);
  else list.add(name, value);
}

}  // namespace nibble
