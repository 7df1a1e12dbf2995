// The parameters of a Llama: logical matrices with Hugging Face's names, inside fused physical buffers.
//
// q|k|v and gate|up are one buffer (and one GEMM) each; every logical matrix is a range of rows of its buffer.
// Optimizers, checkpoints, initialisation and export see the logical matrices, GEMMs and quantizers the buffers.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "model/config.hpp"
#include "quant/precision.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

enum class ParameterKind { embedding, head, norm, projection, step };

/// Gains of norms and steps of quantizers: [1, n] in f32 wherever they are kept, also beside bf16 matrices.
constexpr bool is_vector(ParameterKind kind) { return kind == ParameterKind::norm || kind == ParameterKind::step; }

/// A logical matrix [rows, cols]; a norm's gain is [1, width], or of heads [1, hd], a block's steps are [1, 8]
/// (LinearCall::steps for qkv, output, gate_up and down).
struct ParameterInfo {
  std::string name;  ///< "model.layers.0.self_attn.q_proj.weight"
  ParameterKind kind = ParameterKind::projection;
  int64_t rows = 0, cols = 0;
  int layer = -1;            ///< -1 outside the blocks
  int buffer = 0;            ///< index of the physical buffer
  int64_t first_row = 0;     ///< within the buffer
  bool to_residual = false;  ///< o_proj and down_proj, whose outputs add to the residual stream

  int64_t size() const { return rows * cols; }
};

/// A physical matrix; what one GEMM multiplies with.
struct BufferInfo {
  std::string name;  ///< "layers.0.qkv"
  ParameterKind kind = ParameterKind::projection;
  int64_t rows = 0, cols = 0;
  int layer = -1;
};

/// Where each matrix lies; a pure function of the configuration and of whether recipes learn steps.
class ParameterLayout {
 public:
  explicit ParameterLayout(const ModelConfig& config, bool learns_steps = false);

  /// In the order of the forward pass; a parameter's index is the tensor id of its random numbers.
  const std::vector<ParameterInfo>& parameters() const { return parameters_; }
  const std::vector<BufferInfo>& buffers() const { return buffers_; }

  // Indices of physical buffers.
  int embedding() const { return 0; }
  int attention_norm(int layer) const { return block(layer); }
  int qkv(int layer) const { return block(layer) + 1; }
  /// The gains of queries and keys, [2, hd], where the layout has_qk_norm().
  int qk_norm(int layer) const { return block(layer) + 2; }
  int output(int layer) const { return block(layer + 1) - 4; }
  int ffn_norm(int layer) const { return block(layer + 1) - 3; }
  int gate_up(int layer) const { return block(layer + 1) - 2; }
  int down(int layer) const { return block(layer + 1) - 1; }
  int final_norm() const { return block(static_cast<int>(layers_)); }
  /// The embedding's buffer when tied.
  int head() const { return tied_ ? embedding() : final_norm() + 1; }
  /// Behind all others, where the layout learns_steps().
  int steps(int layer) const { return final_norm() + (tied_ ? 1 : 2) + layer; }
  bool learns_steps() const { return learns_steps_; }
  bool has_qk_norm() const { return qk_norm_; }
  /// Of a block's buffer, and where its two steps are among those of the block.
  Projection projection(int buffer) const;
  int64_t first_step(int buffer) const { return 2 * static_cast<int64_t>(projection(buffer)); }

  // Units: buffers that a pass needs together, numbered in the order of the forward pass.
  int units() const { return static_cast<int>(layers_) + 2; }
  int embedding_unit() const { return 0; }
  int block_unit(int64_t layer) const { return static_cast<int>(layer) + 1; }
  /// The final norm and, untied, the head; a tied head comes with the embedding.
  int head_unit() const { return static_cast<int>(layers_) + 1; }
  int unit_of(int buffer) const;
  bool tied() const { return tied_; }

  /// All buffers in the order in which the backward pass completes their gradients.
  std::vector<int> backward_order() const;

 private:
  void add(BufferInfo buffer, std::vector<ParameterInfo> parts);
  /// A block's first buffer.
  int block(int layer) const { return 1 + (qk_norm_ ? 7 : 6) * layer; }

  int64_t layers_;
  bool tied_, qk_norm_, learns_steps_;
  std::vector<ParameterInfo> parameters_;
  std::vector<BufferInfo> buffers_;
};

/// By buffer: bits of an element of the codes that a set holds instead of values, 0 where it holds values; empty: it
/// holds values only.
using CodeBits = std::vector<int>;

/// Whether every buffer has memory of its own, or the blocks take turns in two memories and an untied head in the
/// embedding's: then a unit must be brought there before it is used (ParameterSet::await).
enum class Residency { all, rotating };

/// One value for every parameter: the working copy of the weights, a gradient, a moment.
/// A handle: the model's passes are told which set to run on.
class ParameterSet {
 public:
  ParameterSet() = default;
  /// `matrix` is the element type of projections, embedding and head, `vector` that of the others.
  /// Rows are padded to 64 bytes where `padded`, else packed. Rows of codes are u8.
  ParameterSet(const ParameterLayout& layout, DType matrix, DType vector, bool padded, const std::string& purpose,
               Residency residency = Residency::all, const CodeBits& code_bits = {}, Place place = Place::host);

  /// What every pass does before it uses a unit's memory: nothing, or what `on_await` was told.
  void await(int unit) const {
    if (on_await_) on_await_(unit);
  }
  /// `arrive` returns when the unit's weights are there, or when its memory may be overwritten.
  void on_await(std::function<void(int unit)> arrive) { on_await_ = std::move(arrive); }

  const Tensor& buffer(int index) const { return buffers_[index]; }
  /// What the codes of a buffer are multiplied with; 1 where it holds none.
  float factor(int index) const { return factors_[static_cast<size_t>(index)]; }
  void set_factor(int index, float factor) { factors_[static_cast<size_t>(index)] = factor; }
  /// The logical matrix, a view of its buffer.
  const Tensor& operator[](size_t parameter) const { return parameters_[parameter]; }
  size_t size() const { return parameters_.size(); }
  size_t bytes() const { return arena_.bytes(); }

 private:
  Arena arena_;
  std::vector<Tensor> buffers_;
  std::vector<Tensor> parameters_;
  std::vector<float> factors_;  ///< by buffer
  std::function<void(int unit)> on_await_;
};

}  // namespace nibble
