// What the parts of the self-test share. Not for others: self_test.hpp.
#pragma once

#include <optional>
#include <span>

#include "quant/quantize.hpp"
#include "quant/self_test.hpp"

namespace nibble::self_test_checks {

/// What broke a property; `what` is filled in by whoever knows it.
using Check = std::optional<SelfTestFailure>;

/// What x stands for after quantization along its columns, every scale multiplied.
std::vector<float> quantized(Stream& stream, const Quantizer& quantizer, const Tensor& x,
                             const Hadamard* hadamard = nullptr);

Check zero_block(Stream& stream, const Quantizer& quantizer);
Check huge_block(Stream& stream, const Quantizer& quantizer);
Check poisoned_block(Stream& stream, const Quantizer& quantizer);
/// The block worked out for `quantizer`, where there is one, as `used` quantizes it.
Check worked_block(Stream& stream, const Quantizer& quantizer, const Quantizer& used);
inline Check worked_block(Stream& stream, const Quantizer& quantizer) {
  return worked_block(stream, quantizer, quantizer);
}
/// Bias of stochastic rounding and of EDEN; then error and misalignment that the row quotes.
Check bias(const QuantizerRow& row, std::span<const float> x, std::span<const float> q);
Check quoted_error(const QuantizerRow& row, std::span<const float> x, std::span<const float> q);

}  // namespace nibble::self_test_checks
