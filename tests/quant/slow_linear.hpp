// A linear layer of every recipe, slowly: the formulas of the papers, with products in double.
//
// Its table is written from the papers (the reference on quantization, sections 2 to 5 and 7), not from recipe.cpp.
// Single operands are made by quantize(), which is compared with the reference quantizers element by element
// (quantize_test.cpp): with operands of its own, ties would have to be forgiven here.
#pragma once

#include <string>
#include <vector>

#include "quant/linear.hpp"
#include "tests/quant/quantizer_cases.hpp"

namespace nibble {

/// One of the products of the backward pass. Quantizers are names of quantizer_cases(); empty: none.
struct SlowGradient {
  std::string error{}, other{};
  bool of_given = false;  ///< the other operand is x or w as it was before the forward pass quantized it
  Rotation rotation{};    ///< of the reduction axis
  bool left = false;      ///< the tokens of the error are rotated, and the result back
};

struct SlowRecipe {
  std::string name;
  int64_t rotation = 0;  ///< of the input features
  std::string input{}, weight{};
  SlowGradient by_input{}, by_weight{};
  bool signs_for_each_product = false;
  bool wide = false;  ///< products in f32: bf16 does not hold the operands
};

const std::vector<SlowRecipe>& slow_recipes();

struct LinearResults {
  reference::Matrix y, dx, dw;
};
/// x[tokens, in], w[out, in], dy[tokens, out] hold values of bf16.
LinearResults slow_linear(const SlowRecipe& recipe, const LinearSpec& spec, const LinearCall& call,
                          const reference::Matrix& x, const reference::Matrix& w, const reference::Matrix& dy);

/// a[M, depth] b[N, depth]^T.
reference::Matrix slow_product(const reference::Matrix& a, const reference::Matrix& b);

}  // namespace nibble
