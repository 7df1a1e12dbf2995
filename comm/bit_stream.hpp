// Numbers of a few bits one behind the other, the lowest bit of the first byte first.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>
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
    held_bits_ += bits;
    if (held_bits_ < 32) return;
    write(sizeof(uint32_t));
    held_ >>= 32;
    held_bits_ -= 32;
  }
  void finish() {
    if (held_bits_ > 0) write(bytes_of_bits(held_bits_));
  }

 private:
  void write(size_t bytes) {
    assert(next_ + bytes <= to_.size());
    std::memcpy(to_.data() + next_, &held_, bytes);
    next_ += bytes;
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

  /// The next `bits` <= 32.
  uint32_t get(int bits) {
    const uint64_t word = word_at(next_ / 8);
    const auto number = static_cast<uint32_t>(word >> next_ % 8 & ((uint64_t{1} << bits) - 1));
    next_ += static_cast<size_t>(bits);
    assert(next_ <= 8 * from_.size());
    return number;
  }
  /// What is left of the last byte that was read.
  bool padding_is_zero() const { return next_ % 8 == 0 || std::to_integer<int>(from_[next_ / 8]) >> next_ % 8 == 0; }

 private:
  uint64_t word_at(size_t byte) const {
    uint64_t word = 0;
    if (byte + sizeof word <= from_.size()) std::memcpy(&word, from_.data() + byte, sizeof word);
    else std::memcpy(&word, from_.data() + byte, from_.size() - byte);
    return word;
  }

  std::span<const std::byte> from_;
  size_t next_ = 0;  ///< bit
};

}  // namespace nibble
