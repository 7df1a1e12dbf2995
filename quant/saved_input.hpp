// What a linear layer leaves of its input for its weight gradient.
//
// Codes take less memory than x wherever there are some: at most 8 bits an element and their scales. Not for: which of
// the model's activations stay anyway (LinearSpec::input_stays), how codes are made and read (quantize.hpp).
#pragma once

#include "quant/linear.hpp"
#include "quant/linear_scratch.hpp"

namespace nibble {

enum class SavedInput {
  given,       ///< x itself, which the caller keeps
  multiplied,  ///< codes of the operand that y multiplies, [tokens, in]
  other,  ///< codes of the operand that dw multiplies, made in the forward pass, [in, tokens]; y's mask beside them
};

/// The codes that the forward pass has anyway come first.
SavedInput saved_input(const Recipe& recipe, const LinearSpec& spec);

/// Whether the forward pass leaves the matrix of an input that is made for it; `returns` as in LinearInput.
constexpr bool leaves_matrix(SavedInput kind, bool returns) {
  return kind == SavedInput::other || (kind == SavedInput::given && !returns);
}

/// Takes the memory of the codes and what belongs to them; the scratch is one that counts.
void take_saved_input(Arena& memory, const Recipe& recipe, const LinearSpec& spec, int64_t tokens, LinearSaved& saved);
void take_saved_input(LinearScratch& memory, const Recipe& recipe, const LinearSpec& spec, int64_t tokens,
                      LinearSaved& saved);

/// Keeps what the codes are multiplied with.
void save_scales(Stream& stream, const Operand& operand, const LinearSaved& saved);

}  // namespace nibble
