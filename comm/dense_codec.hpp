// How a rank that has summed its part of a vector writes it for the others, in fewer bytes than f32.
//
// What a codec makes of the same values on the same element is the same on every rank; the owner itself goes on with
// what it decodes from its own bytes, so that all ranks have the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace nibble {

class DenseCodec {
 public:
  virtual ~DenseCodec() = default;

  /// Parts begin at multiples of this number of elements, so that no block is cut.
  virtual int64_t block_elements() const = 0;
  /// Of `count` elements; only the vector's last part may end within a block.
  virtual size_t bytes(int64_t count) const = 0;
  /// coded = elements [first, first + values.size()) of the vector; coded.size() = bytes(values.size()).
  virtual void encode(std::span<const float> values, int64_t first, std::span<std::byte> coded) const = 0;
  /// Throws Error{communication} for bytes that `encode` does not write.
  virtual void decode(std::span<const std::byte> coded, int64_t first, std::span<float> values) const = 0;
};

}  // namespace nibble
