// What travels of a selected value, and what stays behind for the next step: the same on every device.
#pragma once

#include "comm/collectives.hpp"
#include "tensor/dtype.hpp"
#include "tensor/host_device.hpp"

namespace nibble {

struct SentAndLeft {
  float sent, left;
};

/// sent + left = value, bit for bit.
[[gnu::always_inline]] NIBBLE_HOST_DEVICE inline SentAndLeft cut(float value, Wire wire) {
  if (wire == Wire::f32) return {value, 0.0f};  // a difference would leave a NaN of an infinite value
  const auto sent = static_cast<float>(bf16(value));
  return {sent, value - sent};
}

}  // namespace nibble
