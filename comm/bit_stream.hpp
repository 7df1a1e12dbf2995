// Numbers of a few bits one behind the other, the lowest bit of the first byte first.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <span>

namespace nibble {

constexpr size_t bytes_of_bits(int64_t bits) { return static_cast<size_t>((bits + 7) / 8); }

/// Writes into memory that is large enough; `finish` pads the last byte with zeros.
class BitWriter {
 public:
  explicit BitWriter(std::span<std::byte> to) : to_(to) {}

  /// The low `bits` <= 32 of a number that has no others.
  void put(uint32_t number, int bits) {
    held_ |= uint64_t{number} << held_bits_;
    for (held_bits_ += bits; held_bits_ >= 8; held_bits_ -= 8, held_ >>= 8) put_byte();
  }
  void finish() {
    if (held_bits_ > 0) put_byte();
  }

 private:
  void put_byte() {
    assert(next_ < to_.size());
    to_[next_++] = static_cast<std::byte>(held_);
  }

  std::span<std::byte> to_;
  size_t next_ = 0;
  uint64_t held_ = 0;
  int held_bits_ = 0;
};

/// Reads from memory that is large enough.
class BitReader {
 public:
  explicit BitReader(std::span<const std::byte> from) : from_(from) {}

  uint32_t get(int bits) {
    for (; held_bits_ < bits; held_bits_ += 8) {
      assert(next_ < from_.size());
      held_ |= static_cast<uint64_t>(from_[next_++]) << held_bits_;
    }
    const auto number = static_cast<uint32_t>(held_ & ((uint64_t{1} << bits) - 1));
    held_ >>= bits;
    held_bits_ -= bits;
    return number;
  }
  /// What is left of the last byte that was read.
  bool padding_is_zero() const { return held_ == 0; }

 private:
  std::span<const std::byte> from_;
  size_t next_ = 0;
  uint64_t held_ = 0;
  int held_bits_ = 0;
};

}  // namespace nibble
