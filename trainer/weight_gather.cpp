#include "trainer/weight_gather.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>
#include <vector>

#include "quant/weight_codes.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

[[noreturn]] void refuse(std::string what, std::string seen, std::string allowed, std::string next) {
  throw Error({.kind = ErrorKind::configuration,
               .what = std::move(what),
               .where = "weights.gather",
               .seen = std::move(seen),
               .allowed = std::move(allowed),
               .next = std::move(next)});
}

}  // namespace

bool gathers_codes(const Settings& settings) { return settings.weights.gather == "codes"; }

CodeBits code_bits(const ParameterLayout& layout, const Precision& precision) {
  CodeBits bits;
  for (int buffer = 0; buffer < std::ssize(layout.buffers()); ++buffer) {
    const BufferInfo& info = layout.buffers()[static_cast<size_t>(buffer)];
    const std::optional<WeightCodes> codes = info.kind == ParameterKind::projection
                                                 ? weight_codes(precision.phases(info.layer, layout.projection(buffer)))
                                                 : std::nullopt;
    bits.push_back(codes ? codes->bits() : 0);
  }
  return bits;
}

void check_gather(const Settings& settings) {
  if (!gathers_codes(settings)) return;
  if (settings.shard != "parameters")
    refuse("only sharded parameters are gathered as codes",
           fmt::format("weights.gather: codes, shard: {}", settings.shard), "with shard: parameters",
           "set shard=parameters, or weights.gather=working");
  if (settings.run.operands.every > 0)
    refuse("records of what quantization does to weights need whole weights, not their codes",
           fmt::format("weights.gather: codes, run.operands.every: {}", settings.run.operands.every),
           "run.operands.every: 0", "set weights.gather=working, or run.operands.every=0");
}

void require_codes(const Precision& precision, int64_t layers) {
  for (int64_t layer = 0; layer < layers; ++layer)
    for (const Projection projection : projections)
      if (weight_codes(precision.phases(layer, projection))) return;
  std::vector<std::string> rows;
  for (const Recipe& recipe : recipes())
    if (weight_codes(recipe)) rows.push_back(recipe.name);
  refuse("no layer's products multiply one set of codes of its weight throughout the run",
         fmt::format("weights.gather: codes, precision.recipe: {}", precision.recipe().name),
         fmt::format("recipes with one current scale for the weight, rounded to nearest, whose gradients multiply the "
                     "same codes: {}",
                     fmt::join(rows, ", ")),
         "take one of these for some layers, or set weights.gather=working");
}

}  // namespace nibble
