// Codes of a byte each, packed to 1, 2 or 4 bits and back, sixty-four at a time. Part of code_kernels_body.hpp.
//
// With AVX-512; else, for other widths and for the rest of a bucket bit_packing.hpp does it, eight at a time.
#pragma once

#include "comm/bit_packing.hpp"
#include "comm/cpu/code_kernels.hpp"
#include "comm/cpu/code_lanes.hpp"

namespace nibble {
namespace {

#if defined(NIBBLE_TILES_FOR_AVX512)
using u16x32 = uint16_t __attribute__((vector_size(64)));
using u8x64 = uint8_t __attribute__((vector_size(64)));

void pack_group(const uint8_t* codes, int bits, std::byte* packed) {
  u8x64 bytes;
  std::memcpy(&bytes, codes, sizeof bytes);
  if (bits == 1) {
    const __m512i ones = reinterpret_cast<__m512i>(bytes);
    const uint64_t mask = _mm512_test_epi8_mask(ones, ones);
    std::memcpy(packed, &mask, sizeof mask);
  } else if (bits == 2) {  // of each two bytes one, and of two of those one
    const u16x32 wide = simd::as<u16x32>(bytes);
    const u32x pairs = simd::as<u32x>((wide | wide >> 6) & 0xf), fours = pairs | pairs >> 12;
    const __m128i joined = _mm512_maskz_cvtepi32_epi8(0xffff, reinterpret_cast<__m512i>(fours));
    std::memcpy(packed, &joined, sizeof joined);
  } else {
    const u16x32 wide = simd::as<u16x32>(bytes), pairs = wide | wide >> 4;
    const __m256i joined = _mm512_maskz_cvtepi16_epi8(~__mmask32{0}, reinterpret_cast<__m512i>(pairs));
    std::memcpy(packed, &joined, sizeof joined);
  }
}

void unpack_group(const std::byte* packed, int bits, uint8_t* codes) {
  u8x64 bytes;
  if (bits == 1) {
    __mmask64 mask;
    std::memcpy(&mask, packed, sizeof mask);
    bytes = reinterpret_cast<u8x64>(_mm512_maskz_set1_epi8(mask, 1));
  } else if (bits == 2) {
    __m128i fours;
    std::memcpy(&fours, packed, sizeof fours);
    const u32x wide = reinterpret_cast<u32x>(_mm512_maskz_cvtepu8_epi32(0xffff, fours));
    const u16x32 pairs = simd::as<u16x32>(wide | wide << 12) & 0xf;
    bytes = simd::as<u8x64>(pairs | pairs << 6) & 0x3;
  } else {
    __m256i pairs;
    std::memcpy(&pairs, packed, sizeof pairs);
    const u16x32 wide = reinterpret_cast<u16x32>(_mm512_maskz_cvtepu8_epi16(~__mmask32{0}, pairs));
    bytes = simd::as<u8x64>(wide | wide << 4) & 0xf;
  }
  std::memcpy(codes, &bytes, sizeof bytes);
}

bool packs_groups(int bits) { return bits == 1 || bits == 2 || bits == 4; }
#else
void pack_group(const uint8_t*, int, std::byte*) {}
void unpack_group(const std::byte*, int, uint8_t*) {}
constexpr bool packs_groups(int) { return false; }
#endif
constexpr size_t packed_at_once = 64;

void pack(std::span<const uint8_t> codes, int bits, std::span<std::byte> packed) {
  size_t i = 0, to = 0;
  if (packs_groups(bits))
    for (; i + packed_at_once <= codes.size();
         i += packed_at_once, to += packed_at_once / 8 * static_cast<size_t>(bits))
      pack_group(codes.data() + i, bits, packed.data() + to);
  pack_bits(codes.subspan(i), bits, packed.subspan(to));
}

bool unpack(std::span<const std::byte> packed, int bits, std::span<uint8_t> codes) {
  size_t i = 0, from = 0;
  if (packs_groups(bits))
    for (; i + packed_at_once <= codes.size();
         i += packed_at_once, from += packed_at_once / 8 * static_cast<size_t>(bits))
      unpack_group(packed.data() + from, bits, codes.data() + i);
  return unpack_bits(packed.subspan(from), bits, codes.subspan(i));
}

}  // namespace
}  // namespace nibble
