// Perplexity before and after an export: what rounding weights costs, or that it costs nothing.
//
// Not for: finding it (packing_measurement.hpp).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>

namespace nibble {

struct PerplexityChange {
  double before = 0, after = 0;
  int64_t tokens = 0;  ///< that were predicted

  /// By the name that stands in files.
  std::array<std::pair<std::string, double>, 3> values() const {
    return {{{"nibble.perplexity.before", before},
             {"nibble.perplexity.after", after},
             {"nibble.perplexity.tokens", static_cast<double>(tokens)}}};
  }
};

}  // namespace nibble
