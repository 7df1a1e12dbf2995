#include "trainer/ggml_blocks.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstring>

#include "quant/block_quantizer.hpp"
#include "tensor/half.hpp"

namespace nibble {
namespace {

using Values = std::span<const float, ggml_block>;
constexpr size_t half_block = ggml_block / 2;

std::byte byte_of(int value) { return static_cast<std::byte>(static_cast<uint8_t>(value)); }
int number_of(std::byte byte) { return std::to_integer<int>(byte); }

/// Calls action(values, block) for each block of a row.
template <class Row, class Bytes, class Action>
void for_each_block(Row row, Bytes blocks, size_t bytes, Action&& action) {
  assert(row.size() % ggml_block == 0);
  for (size_t i = 0; i < row.size() / ggml_block; ++i)
    action(row.subspan(i * ggml_block).template first<ggml_block>(), blocks + i * bytes);
}

/// Sixteen bytes of two codes each.
template <class Code>
void store_pairs(Code&& code, std::byte* bytes) {
  for (size_t j = 0; j < half_block; ++j) bytes[j] = byte_of(code(j) | code(j + half_block) << 4);
}
int load_pair(const std::byte* bytes, size_t j) {
  return number_of(bytes[j % half_block] >> (j < half_block ? 0 : 4)) & 15;
}

void store_half(float value, std::byte* into) {
  const Half half(value);
  std::memcpy(into, &half, sizeof half);
}
float load_half(const std::byte* from) {
  Half half;
  std::memcpy(&half, from, sizeof half);
  return static_cast<float>(half);
}

/// 0 where d is 0, or so small that what it divides is 0 in the file.
float inverse(float d) {
  const float inverse = 1 / d;
  return std::isfinite(inverse) ? inverse : 0;
}

/// The value of largest magnitude, the first of equals.
float largest_of(Values x) {
  return *std::ranges::max_element(x, {}, [](float value) { return std::fabs(value); });
}

float mxfp4_scale(int exponent) { return block_scale_of(ScaleFormat::e8m0, static_cast<uint32_t>(exponent)); }

}  // namespace

void encode_q8_0(std::span<const float> row, std::byte* blocks) {
  for_each_block(row, blocks, q8_0_bytes, [](Values x, std::byte* block) {
    const float d = std::fabs(largest_of(x)) / 127, scale = inverse(d);
    store_half(d, block);
    for (size_t j = 0; j < x.size(); ++j) block[2 + j] = byte_of(static_cast<int>(std::round(x[j] * scale)));
  });
}

void decode_q8_0(const std::byte* blocks, std::span<float> row) {
  for_each_block(row, blocks, q8_0_bytes, [](std::span<float, ggml_block> x, const std::byte* block) {
    const float d = load_half(block);
    for (size_t j = 0; j < x.size(); ++j) x[j] = static_cast<float>(std::to_integer<int8_t>(block[2 + j])) * d;
  });
}

void encode_q4_0(std::span<const float> row, std::byte* blocks) {
  for_each_block(row, blocks, q4_0_bytes, [](Values x, std::byte* block) {
    const float d = largest_of(x) / -8, scale = inverse(d);
    store_half(d, block);
    store_pairs([&](size_t j) { return std::min(15, static_cast<int>(x[j] * scale + 8.5f)); }, block + 2);
  });
}

void decode_q4_0(const std::byte* blocks, std::span<float> row) {
  for_each_block(row, blocks, q4_0_bytes, [](std::span<float, ggml_block> x, const std::byte* block) {
    const float d = load_half(block);
    for (size_t j = 0; j < x.size(); ++j) x[j] = static_cast<float>(load_pair(block + 2, j) - 8) * d;
  });
}

void encode_mxfp4(std::span<const float> row, std::byte* blocks) {
  for_each_block(row, blocks, mxfp4_bytes, [](Values x, std::byte* block) {
    const float largest = std::fabs(largest_of(x));
    // log2 in f32, as the reference has it: just below a power of two it rounds up to that.
    const int exponent = largest > 0 ? std::max(0, static_cast<int>(std::floor(std::log2(largest))) - 2 + 127) : 0;
    std::array<float, 16> values;
    for (size_t code = 0; code < values.size(); ++code)
      values[code] = formats::e2m1.value(static_cast<int>(code)) * mxfp4_scale(exponent);
    const auto code = [&](size_t j) {  // the first of equally near ones
      const auto distance = [&](float value) { return std::fabs(value - x[j]); };
      return static_cast<int>(std::ranges::min_element(values, {}, distance) - values.begin());
    };
    block[0] = byte_of(exponent);
    store_pairs(code, block + 1);
  });
}

void decode_mxfp4(const std::byte* blocks, std::span<float> row) {
  for_each_block(row, blocks, mxfp4_bytes, [](std::span<float, ggml_block> x, const std::byte* block) {
    const float scale = mxfp4_scale(number_of(block[0]));
    for (size_t j = 0; j < x.size(); ++j) x[j] = formats::e2m1.value(load_pair(block + 1, j)) * scale;
  });
}

}  // namespace nibble
