#include "comm/bit_packing.hpp"

#if defined(__BMI2__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cassert>
#include <cstring>

namespace nibble {
namespace {

/// Eight numbers of a byte each -> their lowest bits side by side.
uint64_t gather_bits(uint64_t numbers, int bits) {
#if defined(__BMI2__)
  return _pext_u64(numbers, 0x0101010101010101u * ((1u << bits) - 1));
#else
  uint64_t packed = 0;
  for (int i = 0; i < 8; ++i) packed |= (numbers >> (8 * i) & 0xff) << (bits * i);
  return packed;
#endif
}

uint64_t spread_bits(uint64_t packed, int bits) {
#if defined(__BMI2__)
  return _pdep_u64(packed, 0x0101010101010101u * ((1u << bits) - 1));
#else
  uint64_t numbers = 0;
  for (int i = 0; i < 8; ++i) numbers |= (packed >> (bits * i) & ((1u << bits) - 1)) << (8 * i);
  return numbers;
#endif
}

}  // namespace

void pack_bits(std::span<const uint8_t> numbers, int bits, std::span<std::byte> packed) {
  assert(packed.size() == packed_bytes(static_cast<int64_t>(numbers.size()), bits));
  if (numbers.empty()) return;
  if (bits == 8) return static_cast<void>(std::memcpy(packed.data(), numbers.data(), numbers.size()));
  const size_t width = static_cast<size_t>(bits);
  size_t i = 0, to = 0;
  const auto gathered = [&](size_t count) {
    uint64_t eight = 0;
    std::memcpy(&eight, numbers.data() + i, count);
    return gather_bits(eight, bits);
  };
  // Eight bytes each time, of which the next eight numbers overwrite what is not theirs.
  for (; i + 8 <= numbers.size() && to + 8 <= packed.size(); i += 8, to += width) {
    const uint64_t eight = gathered(8);
    std::memcpy(packed.data() + to, &eight, 8);
  }
  for (; i < numbers.size(); i += 8, to += width) {
    const uint64_t few = gathered(std::min<size_t>(8, numbers.size() - i));
    std::memcpy(packed.data() + to, &few, std::min(width, packed.size() - to));
  }
}

bool unpack_bits(std::span<const std::byte> packed, int bits, std::span<uint8_t> numbers) {
  assert(packed.size() == packed_bytes(static_cast<int64_t>(numbers.size()), bits));
  if (numbers.empty()) return true;
  if (bits == 8) {
    std::memcpy(numbers.data(), packed.data(), numbers.size());
    return true;
  }
  const size_t width = static_cast<size_t>(bits);
  size_t i = 0, from = 0;
  for (; i + 8 <= numbers.size() && from + 8 <= packed.size(); i += 8, from += width) {
    uint64_t gathered;
    std::memcpy(&gathered, packed.data() + from, 8);
    const uint64_t eight = spread_bits(gathered, bits);
    std::memcpy(numbers.data() + i, &eight, 8);
  }
  uint64_t rest = 0;
  for (; i < numbers.size(); i += 8, from += width) {
    uint64_t gathered = 0;
    const size_t count = std::min<size_t>(8, numbers.size() - i);
    std::memcpy(&gathered, packed.data() + from, std::min(width, packed.size() - from));
    const uint64_t eight = spread_bits(gathered, bits);
    std::memcpy(numbers.data() + i, &eight, count);
    if (count < 8) rest = gathered >> (count * width);
  }
  return rest == 0;
}

void pack_bits(std::span<const uint16_t> numbers, int bits, std::span<std::byte> packed) {
  assert(packed.size() == packed_bytes(static_cast<int64_t>(numbers.size()), bits));
  uint32_t waiting = 0;
  int filled = 0;
  auto to = packed.begin();
  for (const uint16_t number : numbers) {
    waiting |= uint32_t{number} << filled;
    for (filled += bits; filled >= 8; filled -= 8, waiting >>= 8) *to++ = static_cast<std::byte>(waiting);
  }
  if (filled > 0) *to = static_cast<std::byte>(waiting);
}

bool unpack_bits(std::span<const std::byte> packed, int bits, std::span<uint16_t> numbers) {
  assert(packed.size() == packed_bytes(static_cast<int64_t>(numbers.size()), bits));
  uint32_t waiting = 0;
  int filled = 0;
  auto from = packed.begin();
  for (uint16_t& number : numbers) {
    for (; filled < bits; filled += 8) waiting |= static_cast<uint32_t>(*from++) << filled;
    number = static_cast<uint16_t>(waiting & ((1u << bits) - 1));
    waiting >>= bits;
    filled -= bits;
  }
  return waiting == 0;
}

}  // namespace nibble
