// Rotary position embedding (Su et al., arXiv 2104.09864) in the rotate-half layout of Hugging Face checkpoints:
// the pair of frequency i is (x_i, x_{i + hd/2}). With Llama 3.1's rescaling of low frequencies where asked.
// Not for: the interleaved layout of Meta's and GGUF's files (their rows are permuted on import and export).
#pragma once

#include <vector>

#include "model/config.hpp"
#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// theta^(-2i/hd) for i < hd/2, rescaled as `rope_scaling` says.
std::vector<double> rope_frequencies(const ModelConfig& config);

/// cos and sin of position * frequency, [positions, hd/2] each, f32 (angles in double).
class RopeTable {
 public:
  RopeTable(const ModelConfig& config, int64_t positions);
  /// In the memory of the stream's kernels.
  RopeTable(Stream& stream, const ModelConfig& config, int64_t positions);

  int64_t positions() const { return cos_.view().rows; }
  const Tensor& cos() const { return cos_.view(); }
  const Tensor& sin() const { return sin_.view(); }
  // Of tables in the host's memory.
  const float* cos(int64_t position) const { return cos_.view().row<float>(position); }
  const float* sin(int64_t position) const { return sin_.view().row<float>(position); }

 private:
  OwnedTensor cos_, sin_;
};

enum class RopeDirection {
  forward,
  backward
};  ///< backward: the transpose, which is the rotation by the negative angle

/// Rotates in place the first `heads` * hd columns of x[tokens, >= heads * hd] (f32 or bf16): query and key heads of
/// the fused projection. Token t of a sequence of `length` stands at position first_position + t mod length.
void rope(Stream& stream, const RopeTable& table, int64_t heads, int64_t head_dim, int64_t length,
          int64_t first_position, RopeDirection direction, const Tensor& x);

}  // namespace nibble
