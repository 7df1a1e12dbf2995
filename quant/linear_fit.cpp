#include "quant/linear_fit.hpp"

#include <fmt/format.h>

#include "tensor/error.hpp"

namespace nibble {
namespace {

/// Throws unless blocks of `block` elements fill an axis.
void require_divides(int64_t block, int64_t length, const std::string& layer, const char* axis, const char* what) {
  if (block <= 1 || length % block == 0) return;
  const int64_t below = length / block * block;
  throw Error(
      {.kind = ErrorKind::configuration,
       .what = fmt::format("{} of {} does not divide the {}", what, block, axis),
       .where = layer,
       .seen = std::to_string(length),
       .allowed = fmt::format("multiples of {}", block),
       .next = below > 0 ? fmt::format("{} or {} would do", below, below + block) : fmt::format("{} would do", block)});
}

}  // namespace

void require_fits(const Quantizer& quantizer, int64_t length, const std::string& layer, const char* axis) {
  if (!quantizer.quantizes()) return;
  require_divides(8, length, layer, axis, "a byte of packed masks and random numbers");
  if (quantizer.blocks()) require_divides(quantizer.group, length, layer, axis, "a block");
  require_divides(quantizer.correction_group, length, layer, axis, "a correction group");
}

std::optional<Hadamard> hadamard_of(const Rotation& rotation, int64_t length, const std::string& layer,
                                    const char* axis) {
  if (!rotation) return {};
  require_divides(rotation.over(length), length, layer, axis, "a rotation");
  return Hadamard::of_order(rotation.over(length), fmt::format("{}, {}", layer, axis));
}

void require_foldable(const Quantizer& forward, const GradientRecipe& gradient, const std::string& recipe) {
  if (forward.extent != Extent::row || !forward.quantizes() || gradient.source == Source::given) return;
  if (!gradient.error.quantizes() || gradient.other.quantizes()) return;
  throw Error({.kind = ErrorKind::configuration,
               .what = "the scales of rows run along the reduction axis of a gradient whose error is quantized",
               .where = "precision",
               .seen = recipe,
               .next = "take a backward recipe that quantizes weights and inputs anew, or bf16"});
}

}  // namespace nibble
