// A number that kernels give and take: a tensor's statistic, a scale, the factor of a product.
//
// On the host it is a float, and converts from and to it. On a device it is where the number will stand when the work
// that was queued before is done: whoever makes it does not wait, nor does whoever hands it on to a kernel. It stands
// there until the same stream has made stream_numbers more (cuda/stream_memory.hpp): long enough for the call that
// asked for it, and what keeps it longer copies it (keep()).
#pragma once

#include "tensor/host_device.hpp"
#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

class Scalar {
 public:
  // NOLINTNEXTLINE(google-explicit-constructor): a float is one
  Scalar(float value = 0) : value_(value) {}
  static Scalar at(const float* on_device) {
    Scalar scalar;
    scalar.address_ = on_device;
    return scalar;
  }

  bool on_device() const { return address_ != nullptr; }
  const float* address() const { return address_; }
  /// Throws Error{internal} for one of a device, which value_of() waits for.
  // NOLINTNEXTLINE(google-explicit-constructor): it is a float
  operator float() const;
  /// For kernels.
  NIBBLE_HOST_DEVICE float read() const { return address_ ? *address_ : value_; }

 private:
  const float* address_ = nullptr;
  float value_ = 0;
};

/// Waits for the stream, on a device.
float value_of(Stream& stream, const Scalar& scalar);
/// a b, rounded.
Scalar product_of(Stream& stream, const Scalar& a, const Scalar& b);
/// Element `index` of a row of f32 (of the stream's place) becomes this number.
void keep(Stream& stream, const Scalar& scalar, const Tensor& row, int64_t index = 0);
/// Element `index` of a row of f32 as it is now, on a device when the kernels that take it have their turn.
Scalar number_in(const Tensor& row, int64_t index = 0);

}  // namespace nibble
