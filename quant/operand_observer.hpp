// Whoever wants to know what the operands of products lost when they were quantized.
//
// An operator measures only where its call carries an observer (LinearCall), on copies of its own: no number of the
// pass depends on it. Not for: what becomes of the measurements (trainer/).
#pragma once

#include <string>

#include "quant/quantize.hpp"

namespace nibble {

/// One operand of the three products of a linear layer: y multiplies x and w, dx multiplies dy and w, dw dy and x.
struct OperandPlace {
  std::string layer;    ///< LinearSpec::name
  const char* product;  ///< "y", "dx", "dw"
  const char* operand;  ///< "x", "w", "dy"
  bool operator==(const OperandPlace&) const = default;
};

class OperandObserver {
 public:
  virtual ~OperandObserver() = default;
  /// `error` is the operand's distance from what its quantizer was given, both rotated. For an operand of dx or dw that
  /// is quantized from one of y (Source::multiplied), that is the quantized one.
  virtual void observe(const OperandPlace& place, const OperandError& error, const QuantizationCounts& counts) = 0;
};

}  // namespace nibble
