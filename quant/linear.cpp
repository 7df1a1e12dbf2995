#include "quant/linear.hpp"

#include "tensor/gemm.hpp"

namespace nibble {
namespace {

/// Operands as they are, products accumulated in fp32.
class DenseLinear final : public Linear {
 public:
  bool keeps_input() const override { return true; }

  void forward(Stream& stream, const LinearCall&, const Tensor& x, const Tensor& w, const Tensor& y,
               const Tensor& residual, LinearSaved*) override {
    gemm(stream, x, Transpose::no, w, Transpose::yes, y, residual);
  }

  void backward(Stream& stream, const LinearCall&, const Tensor& dy, const Tensor& w, const LinearSaved& saved,
                const Tensor& dx, const Tensor& dw) override {
    gemm(stream, dy, Transpose::no, w, Transpose::no, dx);
    gemm(stream, dy, Transpose::yes, saved.input, Transpose::no, dw);
  }
};

}  // namespace

std::unique_ptr<Linear> make_linear(const Recipe&, const LinearSpec&) { return std::make_unique<DenseLinear>(); }

}  // namespace nibble
