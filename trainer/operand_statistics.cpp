#include "trainer/operand_statistics.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace nibble {

std::string operand_title(const OperandPlace& place) { return fmt::format("{}: {}", place.product, place.operand); }

void OperandStatistics::observe(const OperandPlace& place, const OperandError& error,
                                const QuantizationCounts& counts) {
  OperandPlace of_all_phases = place;  // "layers.0.qkv/from_200" is still that layer
  of_all_phases.layer.resize(std::min(place.layer.find('/'), place.layer.size()));
  auto found = std::ranges::find(all_, of_all_phases, &OperandStatistic::place);
  if (found == all_.end()) found = all_.insert(found, {.place = of_all_phases});
  found->error.squared_error += error.squared_error;
  found->error.squared += error.squared;
  found->error.squared_operand += error.squared_operand;
  found->error.product += error.product;
  found->error.underflows += error.underflows;
  found->error.elements += error.elements;
  found->counts.elements += counts.elements;
  found->counts.clipped += counts.clipped;
  found->counts.masked += counts.masked;
}

}  // namespace nibble
