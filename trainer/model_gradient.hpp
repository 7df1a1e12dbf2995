// The gradient of a trained model on a few windows of text, as one vector: what sums over ranks are compared on.
//
// Not for: training (train_step.hpp), how good a recipe's gradients are (gradient_quality.hpp).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace nibble {

/// The first `elements` of the gradient, matrix after matrix in the order of the forward pass, on the windows of
/// `rank`; in bf16, divided by the number of tokens. Throws as load_model, Error{data} for tokens of another
/// vocabulary, and Error{configuration} where the model has not as many parameters.
std::vector<float> gradient_of_model(const std::string& model, const std::string& data, int rank, int64_t elements);

}  // namespace nibble
