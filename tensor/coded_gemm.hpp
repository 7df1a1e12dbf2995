// Products of operands in codes of FP8 and FP4, which tensor cores multiply as they are: on devices alone.
//
// Codes take a half or a quarter of the memory of bf16, and tensor cores multiply them twice or four times as fast. The
// products are the same numbers as those of the bf16 values that codes stand for, but for the order of additions and
// their precision: Hopper's tensor cores keep some 14 bits of a sum of FP8 products (DeepSeek-V3, arXiv 2412.19437,
// section 3.3.2) until the library adds it to an f32. Not for: who makes codes (quant/), integers (gemm.hpp).
#pragma once

#include <cstdint>
#include <span>

#include "tensor/gemm.hpp"

namespace nibble {

/// OCP 8-bit Floating Point v1.0, and OCP Microscaling Formats v1.0 for E2M1.
enum class CodeFormat : uint8_t { e4m3, e5m2, e2m1 };
/// Of blocks of neighbours along the reduction axis.
enum class BlockScales : uint8_t {
  none,
  e8m0,  ///< a power of two for 32 elements: OCP MX
  e4m3   ///< for 16: NVFP4
};

constexpr int bits_of(CodeFormat format) { return format == CodeFormat::e2m1 ? 4 : 8; }
constexpr int64_t block_length(BlockScales scales) { return scales == BlockScales::e8m0 ? 32 : 16; }

/// What a product's operands are.
struct CodePair {
  CodeFormat a{}, b{};
  BlockScales scales{};
};

/// Whether a GPU of this architecture (90 for compute capability 9.0) multiplies such operands.
bool tensor_cores_multiply(int architecture, const CodePair& pair);

/// The columns of c and the depth of a product are multiples of this: whatever cuBLASLt reads or writes in one piece
/// has 16 bytes (its manual, "Tensor Core Usage"), and blocks are whole.
constexpr int64_t coded_multiple(const CodePair& pair) {
  return pair.scales == BlockScales::none && pair.a != CodeFormat::e2m1 ? 16 : 32;
}

/// NIBBLE_GEMM=emulated in the environment, for comparisons: no codes are multiplied, but the bf16 values that they
/// stand for. Throws Error{configuration} for an unknown NIBBLE_GEMM.
bool widens_codes(const Stream& stream);
/// NIBBLE_GEMM=kernel-scales, for comparisons: scales of rows and columns are applied by a kernel behind the product,
/// also where cuBLASLt would.
bool kernels_scale(const Stream& stream);
/// Whether c[?, cols] of that depth is multiplied as codes on this stream: never on the host.
bool multiplies_codes(const Stream& stream, const CodePair& pair, int64_t cols, int64_t depth);

/// An operand, its rows along the reduction axis.
struct CodeMatrix {
  CodeFormat format{};
  BlockScales block_scales{};
  Tensor codes{};   ///< u8 [rows, depth * bits / 8], the first code of two in the lower bits; rows begin on 16 bytes
  Tensor scales{};  ///< u8 [1, scale_tile_bytes()], as tile_scales() writes them; empty: none

  int64_t rows() const { return codes.rows; }
  int64_t depth() const { return codes.cols * 8 / bits_of(format); }
};

/// c[M,N] = a[M,K] b[N,K]^T + addend[M,N], the product scaled, as gemm() does it for bf16: c is f32 or bf16. Where
/// cuBLASLt scales rows and columns (FP8 on compute capability 9.0, cuda/library_product.hpp) it rounds in an order of
/// its own; a run goes on as its record says ("none": a kernel scales), with the same bits unless an older build wrote
/// it, which lacks the product. Throws Error{internal} where multiplies_codes() says no, or what is given does not fit.
void coded_gemm(Stream& stream, const CodeMatrix& a, const CodeMatrix& b, const Tensor& c, const Tensor& addend = {},
                const Scaling& scaling = {});

/// to[rows, depth] = from[rows, depth] or, transposed, [depth, rows]: codes in u8, little-endian bit fields. The depth
/// is a multiple of 16, as are the bytes on which rows of `to` begin; what lies beside rows of `from` one another is a
/// multiple of 8 codes.
struct CodeLayout {
  Tensor from;
  int from_bits = 8;  ///< 1 to 8
  Tensor to;
  int to_bits = 8;  ///< 4 or 8
  bool transposed = false;
  std::span<const uint8_t> meanings{};  ///< what each code becomes; empty: what it is
};
void lay_out_codes(Stream& stream, const CodeLayout& layout);

/// Bytes of the scales of so many rows and blocks of each: whole tiles of 128 x 4 (cuBLAS manual, "1D Block Scaling
/// Factors Layout").
constexpr int64_t scale_tile_bytes(int64_t rows, int64_t blocks) {
  return (rows + 127) / 128 * ((blocks + 3) / 4) * 512;
}
/// tiles[1, scale_tile_bytes()] (u8) = scales[rows, blocks] (u8) and zeros around them. With `square`, scales are those
/// of squares of so many elements, for the transposed matrix: [blocks * square, rows / square].
void tile_scales(Stream& stream, const Tensor& scales, int64_t rows, int64_t blocks, int64_t square,
                 const Tensor& tiles);

}  // namespace nibble
