// quantize() beside the reference, element by element.
//
// The kernel multiplies by the reciprocal of a scale where the formulas divide, and sums squares in f32. What may
// differ is therefore what lies so near the middle of two levels that the last bit decides: each difference must be of
// that kind, else it is a failure of the test.
#pragma once

#include <ostream>

#include "tests/quant/quantizer_cases.hpp"

namespace nibble {

/// How often the last bits decided.
struct Ties {
  int scales = 0;  ///< among those that a block chooses from, or where one of its elements was a tie
  int codes = 0;
  int masks = 0;
  bool operator==(const Ties&) const = default;
};
inline std::ostream& operator<<(std::ostream& out, const Ties& ties) {
  return out << "scales " << ties.scales << ", codes " << ties.codes << ", masks " << ties.masks;
}

Ties compare_with_reference(const QuantizerCase& one, const reference::Matrix& x, const QuantizeCall& call = {});

}  // namespace nibble
