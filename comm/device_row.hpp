// A device's vector as the row that tensor's functions take.
#pragma once

#include <span>

#include "tensor/tensor.hpp"

namespace nibble {

inline Tensor device_row(DType type, const void* elements, int64_t count) {
  return {type, const_cast<void*>(elements), 1, count, count, Place::device};
}
inline Tensor device_row(std::span<const float> vector) {
  return device_row(DType::f32, vector.data(), std::ssize(vector));
}

}  // namespace nibble
