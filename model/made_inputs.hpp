// What a block's linear operators read and the block makes for them: normalised rows, gated activations.
#pragma once

#include "model/norm.hpp"
#include "model/swiglu.hpp"
#include "quant/linear_input.hpp"

namespace nibble {

/// y = RMSNorm(x), see rms_norm_forward.
class NormedInput final : public LinearInput {
 public:
  NormedInput(const Tensor& x, const Tensor& gain, float epsilon, const Tensor& y, const Tensor& inverse_rms)
      : LinearInput(y, false), x_(x), gain_(gain), epsilon_(epsilon), inverse_rms_(inverse_rms) {}

  void make(Stream& stream) const override { rms_norm_forward(stream, x_, gain_, epsilon_, matrix(), inverse_rms_); }
  Scalar make_with_largest(Stream& stream) const override {
    return rms_norm_with_largest(stream, x_, gain_, epsilon_, matrix(), inverse_rms_);
  }
  Operand quantize(Stream& stream, bool keeps, const QuantizeArguments& arguments) const override {
    return rms_norm_quantize(stream, x_, gain_, epsilon_, matrix(), inverse_rms_, keeps, arguments);
  }

 private:
  Tensor x_, gain_;
  float epsilon_;
  Tensor inverse_rms_;
};

/// y = silu(gate) up, see swiglu_forward.
class GatedInput final : public LinearInput {
 public:
  GatedInput(const Tensor& gate_up, const Tensor& y, bool returns) : LinearInput(y, returns), gate_up_(gate_up) {}

  void make(Stream& stream) const override { swiglu_forward(stream, gate_up_, matrix()); }
  Scalar make_with_largest(Stream& stream) const override { return swiglu_with_largest(stream, gate_up_, matrix()); }
  Operand quantize(Stream& stream, bool keeps, const QuantizeArguments& arguments) const override {
    return swiglu_quantize(stream, gate_up_, matrix(), keeps, arguments);
  }

 private:
  Tensor gate_up_;
};

}  // namespace nibble
