// Operands whose codes a product multiplies: which quantizers have such codes, and how these are laid out for it.
//
// Element and block scale of a quantizer's code are what the product multiplies, whatever rule chose them: the larger
// scale of four over six, EDEN's corrections and scales rounded up are numbers of the same format. What a quantizer
// multiplies beyond them (shrink, gain, the tensor's or the row's scale) is the product's factor. Not for: which
// products multiply codes (quantized_linear.hpp), what a GPU has (tensor/coded_gemm.hpp).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "quant/linear_scratch.hpp"
#include "quant/quantize.hpp"
#include "tensor/coded_gemm.hpp"

namespace nibble {

struct CodedAs {
  CodeFormat format{};
  BlockScales scales{};
  std::vector<uint8_t> meanings{};  ///< of the quantizer's codes, in that format; empty: they are the same

  bool operator==(const CodedAs&) const = default;
};

/// E5M2, and what E4M3 holds exactly, as these; under f32 scales or blocks of 32 in E8M0. E2M1 in blocks of 16 under
/// E4M3 as it is. Nothing for other formats, blocks and grids, and where codes do not say all.
std::optional<CodedAs> coded_as(const Quantizer& quantizer);

/// Of an operand that has codes of that quantizer, with its rows along `axis`, over which the product sums: where they
/// lie, if they are good there, else in `scratch`. Codes are turned where they run along the other axis; the quantizer
/// then has no blocks, or squares.
CodeMatrix code_matrix(Stream& stream, const Operand& operand, const Quantizer& quantizer, const CodedAs& as, Axis axis,
                       LinearScratch& scratch);

}  // namespace nibble
