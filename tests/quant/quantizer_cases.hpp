// Every quantizer of quantizers.hpp beside the reference's for it.
#pragma once

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "quant/quantizers.hpp"
#include "tests/quant/quantize_matrix.hpp"

namespace nibble {

struct QuantizerCase {
  std::string name;
  Quantizer quantizer;
  std::function<reference::ReferenceQuantized(const reference::Matrix&, const Uniforms&)> reference;

  bool stochastic() const { return quantizer.rounding == Rounding::stochastic || quantizer.correction_group != 0; }
};
inline std::ostream& operator<<(std::ostream& out, const QuantizerCase& one) { return out << one.name; }

const std::vector<QuantizerCase>& quantizer_cases();
/// The one with this name.
const QuantizerCase& quantizer_case(const std::string& name);

}  // namespace nibble
