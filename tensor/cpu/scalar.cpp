#include "tensor/scalar.hpp"

#include "tensor/cuda/kernels.hpp"
#include "tensor/error.hpp"

namespace nibble {

Scalar::operator float() const {
  if (address_)
    throw Error({.kind = ErrorKind::internal,
                 .what = "a number that a device has was read without waiting for it",
                 .next = "ask value_of()"});
  return value_;
}

float value_of(Stream& stream, const Scalar& scalar) {
  if (!scalar.on_device()) return scalar;
  float value = 0;
  stream.queue().copy(&value, scalar.address(), sizeof value);
  stream.wait();
  return value;
}

Scalar product_of(Stream& stream, const Scalar& a, const Scalar& b) {
  if (!a.on_device() && !b.on_device()) return float{a} * float{b};
  return cuda::product_of(stream, a, b);
}

void keep(Stream& stream, const Scalar& scalar, const Tensor& row, int64_t index) {
  if (row.place == Place::host) row.as<float>()[index] = scalar;
  else if (scalar.on_device()) stream.queue().copy(row.on_device<float>() + index, scalar.address(), sizeof(float));
  else fill(stream, row.slice_cols(index, 1), scalar);
}

Scalar number_in(const Tensor& row, int64_t index) {
  if (row.place == Place::host) return row.as<float>()[index];
  return Scalar::at(row.on_device<float>() + index);
}

}  // namespace nibble
