// How kernels of a device find their block of several tensors: in a table of stretches of equal blocks, which a call
// stages, so that one launch has all blocks and no tensor's size is told block by block.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "optim/kernels.hpp"
#include "tensor/cuda/kernel.hpp"
#include "tensor/staging.hpp"
#include "tensor/stream.hpp"

namespace nibble::cuda {

/// Neighbouring blocks of one tensor, of `block` elements each, the last one maybe less.
template <class Subject>
struct Stretch {
  int64_t number;  ///< of its first block among those of the call
  int64_t first, end, block;
  Subject subject;  ///< what a kernel is told of the tensor
};

/// On the device.
template <class Subject>
struct StretchTable {
  const Stretch<Subject>* stretches;
  int64_t count;
};

/// describe(tensor): the subject.
template <class Describe>
auto send_stretches(Stream& stream, std::span<const TensorBlock> blocks, Describe&& describe) {
  using Subject = decltype(describe(int64_t{}));
  std::vector<Stretch<Subject>> table;
  int64_t tensor = -1, number = 0;
  for (const TensorBlock& block : blocks) {
    const bool goes_on = block.tensor == tensor && table.back().end == block.first &&
                         block.first - table.back().first == (number - table.back().number) * table.back().block &&
                         block.count <= table.back().block;
    if (goes_on) table.back().end += block.count;
    else table.push_back({number, block.first, block.first + block.count, block.count, describe(block.tensor)});
    tensor = block.tensor;
    ++number;
  }
  return StretchTable<Subject>{stream.staging().send(std::span<const Stretch<Subject>>(table)), std::ssize(table)};
}

template <class Subject>
struct FoundBlock {
  const Subject& subject;
  int64_t first, count;
};

/// Of the block with this number, below that of all.
template <class Subject>
__device__ FoundBlock<Subject> find_block(const StretchTable<Subject>& table, int64_t number) {
  int64_t low = 0, high = table.count - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    if (table.stretches[middle].number <= number) low = middle;
    else high = middle - 1;
  }
  const Stretch<Subject>& stretch = table.stretches[low];
  const int64_t first = stretch.first + (number - stretch.number) * stretch.block, left = stretch.end - first;
  return {stretch.subject, first, left < stretch.block ? left : stretch.block};
}

}  // namespace nibble::cuda
