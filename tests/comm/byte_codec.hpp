// A codec as simple as can be: blocks of 1000 elements, a scale and a signed byte for each element.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "comm/dense_codec.hpp"

namespace nibble {

class ByteCodec final : public DenseCodec {
 public:
  int64_t block_elements() const override { return 1000; }
  size_t bytes(int64_t count) const override { return static_cast<size_t>((count + 999) / 1000 * 4 + count); }
  void encode(std::span<const float> values, int64_t, std::span<std::byte> coded) const override {
    for (; !values.empty(); values = values.subspan(block_of(values).size())) {
      const std::span<const float> block = block_of(values);
      float scale = 0;
      for (const float value : block) scale = std::max(scale, std::fabs(value) / 127);
      std::memcpy(coded.data(), &scale, 4);
      for (size_t i = 0; i < block.size(); ++i)
        coded[4 + i] = static_cast<std::byte>(scale > 0 ? static_cast<int8_t>(std::lrint(block[i] / scale)) : 0);
      coded = coded.subspan(4 + block.size());
    }
  }
  void decode(std::span<const std::byte> coded, int64_t, std::span<float> values) const override {
    for (; !values.empty(); values = values.subspan(block_of(values).size())) {
      const std::span<float> block = block_of(values);
      float scale;
      std::memcpy(&scale, coded.data(), 4);
      for (size_t i = 0; i < block.size(); ++i)
        block[i] = static_cast<float>(static_cast<int8_t>(coded[4 + i])) * scale;
      coded = coded.subspan(4 + block.size());
    }
  }

 private:
  template <class T>
  static std::span<T> block_of(std::span<T> values) {
    return values.first(std::min<size_t>(values.size(), 1000));
  }
};

}  // namespace nibble
