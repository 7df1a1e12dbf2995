// A thread for each coordinate; a sample has none twice, so that no two threads write one element.
#include "comm/cuda/coordinates.hpp"

#include <limits>

#include "comm/device_row.hpp"
#include "tensor/cuda/elements.hpp"
#include "tensor/cuda/kernel.hpp"
#include "tensor/fill.hpp"

namespace nibble::cuda {
namespace {

constexpr unsigned threads = 256;

__global__ void select_coordinates(CoordinateSample sample, const float* values, float* sent) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < sample.size()) sent[i] = sample.factor() * values[sample.coordinate(i)];
}

__global__ void add_coordinates(CoordinateSample sample, const float* sent, float* sum) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < sample.size()) sum[sample.coordinate(i)] += sent[i];
}

struct MarkInfinite {
  Rows<float> values;
  float* mark;

  __device__ void operator()(int64_t, int64_t first, int count) const {
    const Group group = values.load(0, first, count);
    for (const float value : group.values)
      if (!(fabsf(value) <= std::numeric_limits<float>::max()))
        atomic_max(mark, std::numeric_limits<float>::infinity());
  }
};

struct SpreadMark {
  const float* mark;
  Rows<float> sum;

  __device__ void operator()(int64_t, int64_t first, int count) const {
    if (*mark == 0) return;
    Group group;
    for (float& value : group.values) value = *mark;
    sum.store(0, first, count, group);
  }
};

void launch_on_coordinates(Stream& stream, void (*kernel)(CoordinateSample, const float*, float*),
                           const CoordinateSample& sample, const float* from, float* to) {
  if (sample.size() == 0) return;
  launch(stream.queue(), {static_cast<unsigned>((sample.size() + threads - 1) / threads)}, {threads}, 0, kernel, sample,
         from, to);
}

}  // namespace

void write_message(Stream& stream, const CoordinateSample& sample, std::span<const float> values,
                   std::span<float> message) {
  nibble::fill(stream, device_row(message.first(1)), 0);
  for_each_group(stream, 1, std::ssize(values), MarkInfinite{Rows<float>(device_row(values)), message.data()});
  launch_on_coordinates(stream, select_coordinates, sample, values.data(), message.data() + 1);
}

void add_message(Stream& stream, const CoordinateSample& sample, std::span<const float> message, std::span<float> sum) {
  for_each_group(stream, 1, std::ssize(sum), SpreadMark{message.data(), Rows<float>(device_row(sum))});
  launch_on_coordinates(stream, add_coordinates, sample, message.data() + 1, sum.data());
}

}  // namespace nibble::cuda
