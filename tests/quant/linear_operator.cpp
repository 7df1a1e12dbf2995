#include "tests/quant/linear_operator.hpp"

#include <algorithm>

#include "tensor/convert.hpp"

namespace nibble {

using reference::Matrix;

LinearOperands::LinearOperands(int64_t tokens, int64_t in, int64_t out)
    : spec{.name = "layers.0.down", .in = in, .out = out, .tokens = tokens, .id = 3, .seed = 11},
      x(normal_matrix(tokens, in, 1, true)),
      w(normal_matrix(out, in, 2, true)),
      dy(normal_matrix(tokens, out, 3, true)) {}

LinearResults run_linear(Linear& linear, const LinearOperands& operands, const LinearCall& call, DType given,
                         DType results, const Tensor& codes, Place place) {
  const auto& [spec, x, w, dy] = operands;
  Stream stream(2, place);
  const auto made = [&](DType type, int64_t rows, int64_t cols) {
    return OwnedTensor(type, rows, cols, "test", place);
  };
  const auto there = [&](const reference::Matrix& x_of, DType type) {
    const OwnedTensor host = tensor_of(x_of, type);
    OwnedTensor tensor = made(type, host.view().rows, host.view().cols);
    copy(stream, host, tensor);
    stream.wait();
    return tensor;
  };
  const auto here = [&](const Tensor& tensor) {
    const OwnedTensor host(tensor.dtype, tensor.rows, tensor.cols);
    copy(stream, tensor, host);
    stream.wait();
    return matrix_of(host);
  };
  const OwnedTensor scratch =
      made(DType::u8, 1, static_cast<int64_t>(std::max<size_t>(linear.scratch_bytes(stream, spec.tokens), 1)));
  LinearSaved saved;
  const Arena arena(
      "saved", [&](Arena& from) { linear.take_saved(from, spec.tokens, saved); }, place);
  const OwnedTensor input = there(x, given), whole = there(w, given), error = there(dy, given);
  const OwnedTensor y = made(results, spec.tokens, spec.out), dx = made(results, spec.tokens, spec.in),
                    dw = made(DType::f32, spec.out, spec.in), zeros = made(DType::f32, spec.tokens, spec.out);
  const Tensor weight = codes ? codes : whole.view();
  const bool adds = given == DType::bf16 && results == DType::f32;
  linear.forward(stream, call, input, weight, y, adds ? zeros.view() : Tensor(), &saved, scratch);
  if (linear.keeps_input()) saved.input = input;
  linear.backward(stream, call, error, weight, saved, dx, dw, scratch);
  return {here(y), here(dx), here(dw)};
}

LinearResults run_linear(const Recipe& recipe, const LinearOperands& operands, const LinearCall& call, DType results,
                         Place place) {
  return run_linear(*make_linear(recipe, operands.spec), operands, call, recipe.operands, results, {}, place);
}

LinearResults plain_linear(const LinearOperands& operands) {
  const auto& [spec, x, w, dy] = operands;
  return {slow_product(x, w), slow_product(dy, w.transposed()), slow_product(dy.transposed(), x.transposed())};
}

}  // namespace nibble
