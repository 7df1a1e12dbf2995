// Element types: their sizes, their names in files, and bfloat16.
//
// Not for: number formats of quantizers (quant/); those are stored as u8 or i8 codes here.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "tensor/host_device.hpp"

namespace nibble {

/// bfloat16: the upper half of an IEEE binary32. Converts from float by round-to-nearest-even; NaN stays NaN.
struct bf16 {
  uint16_t bits = 0;

  bf16() = default;
  NIBBLE_HOST_DEVICE explicit bf16(float value) {
#if defined(__CUDA_ARCH__)
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));  // NaN becomes 0x7fff
#else
    const uint32_t u = std::bit_cast<uint32_t>(value);
    // A NaN whose payload sits in the lower half would round to infinity; it keeps its sign and becomes quiet.
    bits = value != value ? static_cast<uint16_t>((u >> 16) | 0x0040u)
                          : static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
#endif
  }
  NIBBLE_HOST_DEVICE explicit operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
  bool operator==(const bf16&) const = default;
};

enum class DType : uint8_t { f32, bf16, f64, i32, i64, u8, u16, i8 };

constexpr size_t size_of(DType type) {
  switch (type) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::u16:
      return 2;
    case DType::u8:
    case DType::i8:
      return 1;
  }
  return 0;
}

constexpr std::string_view name(DType type) {
  switch (type) {
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::f64:
      return "f64";
    case DType::i32:
      return "i32";
    case DType::i64:
      return "i64";
    case DType::u8:
      return "u8";
    case DType::u16:
      return "u16";
    case DType::i8:
      return "i8";
  }
  return "?";
}

namespace detail {
template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<bf16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::i64;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::u8;
};
template <>
struct DTypeOf<uint16_t> {
  static constexpr DType value = DType::u16;
};
template <>
struct DTypeOf<int8_t> {
  static constexpr DType value = DType::i8;
};
}  // namespace detail

template <class T>
inline constexpr DType dtype_of = detail::DTypeOf<T>::value;

}  // namespace nibble
