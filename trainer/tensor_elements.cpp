#include "trainer/tensor_elements.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace nibble {
namespace {

void* address(const Tensor& tensor, int64_t element) {
  return static_cast<char*>(tensor.data) + element * static_cast<int64_t>(size_of(tensor.dtype));
}

/// Calls visit(element in memory, offset within the run, count) for each row's part of a run.
template <class Visit>
void for_each_row(const Tensor& tensor, int64_t first, int64_t count, Visit&& visit) {
  for (int64_t done = 0; done < count;) {
    const int64_t row = (first + done) / tensor.cols, col = (first + done) % tensor.cols;
    const int64_t here = std::min(count - done, tensor.cols - col);
    visit(row * tensor.stride + col, done, here);
    done += here;
  }
}

}  // namespace

std::optional<Tensor> view_elements(const Tensor& tensor, int64_t first, int64_t count) {
  assert(first >= 0 && first + count <= tensor.size());
  if (tensor.contiguous()) return Tensor(tensor.dtype, address(tensor, first), 1, count);
  return std::nullopt;
}

void get_elements(const Tensor& tensor, int64_t first, const Tensor& into) {
  assert(into.dtype == tensor.dtype && into.rows == 1);
  const size_t size = size_of(tensor.dtype);
  for_each_row(tensor, first, into.cols, [&](int64_t element, int64_t offset, int64_t count) {
    std::memcpy(address(into, offset), address(tensor, element), static_cast<size_t>(count) * size);
  });
}

void set_elements(const Tensor& tensor, int64_t first, const Tensor& values) {
  const bool rounds = values.dtype == DType::f32 && tensor.dtype == DType::bf16;
  assert((rounds || values.dtype == tensor.dtype) && values.rows == 1);
  const size_t size = size_of(tensor.dtype);
  for_each_row(tensor, first, values.cols, [&](int64_t element, int64_t offset, int64_t count) {
    if (rounds) {
      const float* from = values.as<float>() + offset;
      std::transform(from, from + count, tensor.as<bf16>() + element, [](float value) { return bf16(value); });
    } else {
      std::memcpy(address(tensor, element), address(values, offset), static_cast<size_t>(count) * size);
    }
  });
}

}  // namespace nibble
