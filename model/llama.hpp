// A Llama: forward and backward passes of one micro-batch.
//
// The model owns its activations and linear operators; weights and gradients are handles (ParameterSet) that each
// pass is told. Architecture: Touvron et al., arXiv 2302.13971, as transformers' LlamaForCausalLM computes it.
// Not for: the optimizer's masters (optim/), the sum over micro-batches (trainer/), generation (decoder.hpp).
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "model/attention.hpp"
#include "model/block_graphs.hpp"
#include "model/config.hpp"
#include "model/embedding.hpp"
#include "model/loss.hpp"
#include "model/norm.hpp"
#include "model/parameters.hpp"
#include "model/rope.hpp"
#include "quant/linear.hpp"

namespace nibble {

/// What is kept from the forward pass for the backward pass.
enum class Recompute {
  none,   ///< all activations
  block,  ///< the input of each block; the block runs forward again in the backward pass, with identical results
};

struct LlamaOptions {
  int64_t sequences = 1;  ///< of every micro-batch
  int64_t length = 0;     ///< tokens of each sequence
  Recompute recompute = Recompute::none;
  bool training = true;  ///< false: no memory for gradients
  uint64_t seed = 0;     ///< of the recipe's random numbers
  bool graphs = false;   ///< on a device: the blocks of training passes are graphs (block_graphs.hpp)
  AttentionBy attention = AttentionBy::own;  ///< on a device
};

/// One micro-batch, row-major [sequences, length].
struct MicroBatch {
  std::span<const int32_t> inputs;
  std::span<const int32_t> targets;  ///< -1: not counted
  /// See attention_forward; empty: attention crosses documents, as it does where a library computes it.
  std::span<const int32_t> document_starts;
};

/// Called in the backward pass as soon as a physical buffer's gradient of this micro-batch is complete; where blocks
/// are graphs, as soon as all of its block's are.
using GradientReady = std::function<void(int buffer)>;
/// Told the gradient (f32 [tokens, width]) of the residual stream in front of a block, from the one behind the last
/// block (`layer` = layers) down to the embedding's (0).
using ResidualGradient = std::function<void(int64_t layer, const Tensor& gradient)>;

/// Told the residual stream (f32 [tokens, width]) in front of each block, and behind the last one (`layer` = layers).
using ResidualStream = std::function<void(int64_t layer, const Tensor& stream)>;

struct BackwardOptions {
  LinearCall call{};
  float loss_scale = 1;  ///< each token's loss is multiplied with it: 1 / (counted tokens of the step)
  float z_loss = 0;      ///< coefficient of z-loss in what the gradients are of (TokenObjective)
  GradientReady ready{};
  ResidualGradient residual{};
};

class Llama {
 public:
  /// Throws Error{configuration} for an impossible shape, Error{resource} if memory does not suffice.
  Llama(Stream& stream, const ModelConfig& config, const Precision& precision, const LlamaOptions& options);

  const ModelConfig& config() const { return config_; }
  const ParameterLayout& layout() const { return layout_; }
  const Precision& precision() const { return precision_; }
  int64_t length() const { return options_.length; }
  int64_t tokens() const { return options_.sequences * options_.length; }
  size_t activation_bytes() const { return arena_.bytes(); }
  /// After a choice of algorithms (choose_gemms): see BlockGraphs::forget.
  void products_changed() {
    if (graphs_) graphs_->forget();
  }
  /// What the products of a pass take beside their operands, at most (gemm_scratch_bytes).
  size_t gemm_scratch_bytes() const;

  /// A set of weights of the type that this model multiplies: GEMM operands of the recipe's type, gains f32.
  /// `code_bits`: of projections that are held as codes, as their recipes have them (weight_codes.hpp).
  ParameterSet make_weights(Residency residency = Residency::all, const CodeBits& code_bits = {}) const;
  /// A set of gradients: f32, packed.
  ParameterSet make_gradients(Residency residency = Residency::all) const;

  /// The sum of the losses in nats, with the recipes of `step`.
  double loss(const ParameterSet& weights, const MicroBatch& batch, int64_t step = last_step);

  /// Each token's loss in nats, 0 where its target is -1, with the recipes of `step`. `losses` has tokens() elements.
  void losses(const ParameterSet& weights, const MicroBatch& batch, std::span<float> losses, int64_t step = last_step);

  /// The sums of the losses, and the gradients of loss_scale (cross-entropy + z_loss lse^2), which overwrite
  /// `gradients`.
  LossSums loss_and_gradients(const ParameterSet& weights, const MicroBatch& batch, const BackwardOptions& options,
                              const ParameterSet& gradients);

  /// logits[tokens, vocabulary] (f32) of all tokens: for tests and small models. A training model tells `stream` first.
  void logits(const ParameterSet& weights, const MicroBatch& batch, const Tensor& logits,
              const ResidualStream& stream = {});

  /// The steps with which recipes that learn them begin, as the parameters that hold them: f32 [layers, 8], in host
  /// memory. Each is what suits its operand on this batch. Learned steps of `weights` are not read.
  OwnedTensor initial_steps(const ParameterSet& weights, const MicroBatch& batch);

  /// residual[rows, cols] (f32) of a projection's buffer: see Linear::weight_residual. False where it is not quantized.
  bool weight_residual(const ParameterSet& weights, int buffer, int64_t step, const Tensor& residual);

  // Of rows of a projection's buffer that is held as codes: see Linear. `magnitude` is that of all its rows.
  bool weight_residual(int buffer, int64_t step, const Tensor& rows, float magnitude, const Tensor& residual);
  float weight_magnitude(int buffer, const Tensor& rows) const;
  float encode_weight(int buffer, const Tensor& rows, float magnitude, const Tensor& codes) const;

  /// State of the linear operators, and what becomes of the statistics that a step's calls took.
  void state(StateList& list);
  /// Of what this rank's calls of the step have seen: before commit, each must be the largest over all ranks.
  std::vector<float*> statistics();
  void commit();
  void discard();

  /// By layer and head: attention's largest logit in the training passes since they were forgotten; -inf before any,
  /// and where a library computes attention.
  std::span<float> max_logits() { return max_logits_; }
  void forget_max_logits();

 private:
  /// What a block leaves for its backward pass; all [tokens, ...].
  struct BlockSaved {
    Tensor normed_attention;  ///< input of qkv; shared scratch unless qkv keeps it
    Tensor qkv;               ///< after QK-norm and rotation
    HeadNormSaved to_query_norm, to_key_norm;
    Tensor attention;                               ///< input of output
    Tensor log_sum_exp;                             ///< [heads, tokens]
    Tensor middle;                                  ///< residual stream between the two halves, f32
    Tensor normed_ffn;                              ///< input of gate_up; shared scratch unless gate_up keeps it
    Tensor gate_up;                                 ///< the backward pass turns it into its gradient in place
    Tensor inverse_rms_attention, inverse_rms_ffn;  ///< [1, tokens]
    LinearSaved to_qkv, to_output, to_gate_up, to_down;
  };
  struct BlockLinears {
    std::unique_ptr<Linear> qkv, output, gate_up, down;

    Linear& operator[](Projection projection) const {
      return *std::array{qkv.get(), output.get(), gate_up.get(), down.get()}[static_cast<size_t>(projection)];
    }
  };

  BlockSaved take_block_saved(Arena& arena, const BlockLinears& linears) const;
  void lay_out(Arena& arena);
  BlockSaved& saved(int64_t layer) { return saved_[static_cast<size_t>(layer)]; }
  const Tensor& residual(int64_t layer) const { return residual_[static_cast<size_t>(layer) % residual_.size()]; }
  template <class Action>
  void for_each_linear(Action&& action) const;
  Linear& linear_of(int buffer) const;
  /// The call as the operator of a projection's buffer is told it.
  LinearCall call_of(const LinearCall& call, int buffer, const ParameterSet& weights,
                     const ParameterSet* gradients = nullptr) const;

  void check(const MicroBatch& batch) const;
  /// The checked batch in memory of the stream's place.
  MicroBatch on_stream(const MicroBatch& batch) const;
  /// Of a layer, in memory of the stream's place.
  std::span<float> max_logits_of(int64_t layer);
  /// Embedding, blocks and final norm: leaves normed_final_.
  void run_blocks(const ParameterSet& weights, const MicroBatch& batch, const LinearCall& call);
  /// Of the block's saved qkv.
  void qk_norm_forward(const ParameterSet& weights, int layer);
  /// Of dqkv_.
  void qk_norm_backward(const ParameterSet& weights, int layer, const ParameterSet& gradients);
  bool is_last(int64_t layer) const { return layer + 1 == config_.layers; }
  /// The block up to its saved gate_up, of which activation_ is made, the input of its down projection.
  void block_forward_to_gates(const ParameterSet& weights, int64_t layer, const MicroBatch& batch,
                              const LinearCall& call);
  void down_forward(const ParameterSet& weights, int64_t layer, const LinearCall& call);
  /// Brings back what the block's backward pass reads and the forward pass did not keep.
  void restore_activations(const ParameterSet& weights, int64_t layer, const MicroBatch& batch, const LinearCall& call);
  void block_backward(const ParameterSet& weights, int64_t layer, const MicroBatch& batch,
                      const BackwardOptions& options, const ParameterSet& gradients);
  /// Those that the blocks of this call are; null: they are queued kernel by kernel.
  BlockGraphs* graphs_for(const LinearCall& call) const;

  Stream& stream_;
  ModelConfig config_;
  Precision precision_;
  LlamaOptions options_;
  AttentionShape attention_shape_;
  ParameterLayout layout_;
  RopeTable rope_;
  std::vector<BlockLinears> linears_;
  Tensor initial_steps_;  ///< while they are found

  Arena arena_, scratch_;
  std::vector<BlockSaved> saved_;  ///< by block; blocks that are computed again share memory
  std::vector<Tensor> residual_;  ///< f32: the stream before each block and after the last; two in turn if not training
  Tensor normed_scratch_;
  Tensor linear_scratch_;  ///< working memory of the linear operators, in turn
  Tensor normed_final_, inverse_rms_final_;
  Tensor activation_;         ///< silu(gate) up
  Tensor dresidual_;          ///< f32
  Tensor dresidual_operand_;  ///< the same in the operand type
  Tensor dactivation_, dqkv_, dattention_, dnormed_;
  Tensor norm_scratch_, head_norm_scratch_;
  AttentionScratch attention_scratch_;
  std::vector<float> max_logits_;
  Tensor device_batch_, device_max_logits_;  ///< i32 [3, tokens], f32 [1, layers heads]; empty on the host
  LossScratch loss_scratch_;
  EmbeddingScratch embedding_scratch_;
  std::unique_ptr<BlockGraphs> graphs_;
};

/// Fresh weights (f32): normal with standard deviation `deviation`, those that add to the residual stream with
/// deviation / sqrt(2 layers) (GPT-2's rule, as QuEST and Quartet use it), gains 1. Each logical matrix has its own
/// random stream, so fusing and sharding change nothing. Steps are 1 until initial_steps() is asked. `weights` is
/// packed.
void initialize(Stream& stream, const ModelConfig& config, const ParameterLayout& layout, uint64_t seed,
                double deviation, const ParameterSet& weights);
/// One of them.
void initialize_parameter(Stream& stream, const ModelConfig& config, const ParameterLayout& layout, size_t parameter,
                          uint64_t seed, double deviation, const Tensor& weights);

/// to = from, rounded to nearest where `to` is narrower. `from` may have steps that `to` does not have.
void copy_parameters(Stream& stream, const ParameterSet& from, const ParameterSet& to);

}  // namespace nibble
