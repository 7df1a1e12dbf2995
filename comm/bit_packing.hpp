// Numbers of few bits side by side in bytes: the first in the lowest bits of the first byte.
//
// The bits behind the last number are zero, and who unpacks checks it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace nibble {

inline size_t packed_bytes(int64_t numbers, int bits) { return static_cast<size_t>((numbers * bits + 7) / 8); }

/// packed = numbers of `bits` <= 8, each below 2^bits. `packed` has packed_bytes.
void pack_bits(std::span<const uint8_t> numbers, int bits, std::span<std::byte> packed);
/// The same with `bits` <= 16.
void pack_bits(std::span<const uint16_t> numbers, int bits, std::span<std::byte> packed);

/// The reverse. False when bits behind the last number are not zero.
[[nodiscard]] bool unpack_bits(std::span<const std::byte> packed, int bits, std::span<uint8_t> numbers);
[[nodiscard]] bool unpack_bits(std::span<const std::byte> packed, int bits, std::span<uint16_t> numbers);

}  // namespace nibble
