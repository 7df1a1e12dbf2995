// Blocks of ggml's quantized types, of 32 neighbours in a row: what GGUF files hold in place of numbers.
//
//   Q8_0   f16 d, then 32 signed bytes q: x = q d
//   Q4_0   f16 d, then 16 bytes: x = (q - 8) d
//   MXFP4  an E8M0 byte e, then 16 bytes: x = E2M1[q] 2^(e - 127)
// Byte j of sixteen holds element j in its low and element j + 16 in its high half. Rounding is that of ggml's
// reference (quantize_row_*_ref in ggml-quants.c), with its ties and its reciprocals, so that its bytes come out. Not
// for: the container.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace nibble {

inline constexpr int64_t ggml_block = 32;
inline constexpr size_t q8_0_bytes = 34, q4_0_bytes = 18, mxfp4_bytes = 17;  ///< of a block
/// Scales are f16: these are the largest magnitudes whose scale is finite.
inline constexpr float largest_q8_0 = 127 * 65504.0f, largest_q4_0 = 8 * 65504.0f;

// A row of whole blocks, finite values, into blocks; and what blocks stand for, each product rounded to f32.
void encode_q8_0(std::span<const float> row, std::byte* blocks);
void decode_q8_0(const std::byte* blocks, std::span<float> row);
void encode_q4_0(std::span<const float> row, std::byte* blocks);
void decode_q4_0(const std::byte* blocks, std::span<float> row);
void encode_mxfp4(std::span<const float> row, std::byte* blocks);
void decode_mxfp4(const std::byte* blocks, std::span<float> row);

}  // namespace nibble
