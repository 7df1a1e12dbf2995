#include "model/llama.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "model/embedding.hpp"
#include "model/norm.hpp"
#include "model/swiglu.hpp"
#include "tensor/convert.hpp"
#include "tensor/error.hpp"
#include "tensor/gemm.hpp"
#include "tensor/random.hpp"

namespace nibble {

Llama::Llama(Stream& stream, const ModelConfig& config, const Recipe& recipe, const LlamaOptions& options)
    : stream_(stream),
      config_((config.validate(), config)),
      recipe_(recipe),
      options_(options),
      attention_shape_{options.sequences, options.length, config.heads, config.kv_heads, config.head_dim},
      layout_(config),
      rope_(config, options.length) {
  for (int64_t layer = 0; layer < config.layers; ++layer)
    linears_.push_back({make_linear(recipe), make_linear(recipe), make_linear(recipe), make_linear(recipe)});
  arena_ = Arena("activations", [this](Arena& arena) { lay_out(arena); });
}

void Llama::lay_out(Arena& arena) {
  const DType operands = recipe_.operands;
  const bool keep_all = options_.training && options_.recompute == Recompute::none;
  residual_.clear();
  saved_.clear();
  for (int64_t i = 0; i < (options_.training ? config_.layers + 1 : 2); ++i)
    residual_.push_back(arena.take(DType::f32, tokens(), config_.width));
  for (int64_t i = 0; i < (keep_all ? config_.layers : 1); ++i) saved_.push_back(take_block_saved(arena));
  normed_final_ = arena.take(operands, tokens(), config_.width);
  inverse_rms_final_ = arena.take(DType::f32, 1, tokens());
  activation_ = arena.take(operands, tokens(), config_.ffn);
  attention_scratch_ = AttentionScratch(arena, attention_shape_, operands, stream_.threads(), options_.training);
  loss_scratch_ = LossScratch(arena, tokens(), config_.vocabulary, operands, options_.training);
  if (!options_.training) return;
  dresidual_ = arena.take(DType::f32, tokens(), config_.width);
  dresidual_operand_ = arena.take(operands, tokens(), config_.width);
  dactivation_ = arena.take(operands, tokens(), config_.ffn);
  dgate_up_ = arena.take(operands, tokens(), 2 * config_.ffn);
  dqkv_ = arena.take(operands, tokens(), config_.query_width() + 2 * config_.kv_width());
  dattention_ = arena.take(operands, tokens(), config_.query_width());
  dnormed_ = arena.take(operands, tokens(), config_.width);
}

Llama::BlockSaved Llama::take_block_saved(Arena& arena) const {
  const DType operands = recipe_.operands;
  const BlockLinears& linears = linears_.front();
  BlockSaved saved;
  saved.normed_attention = arena.take(operands, tokens(), config_.width);
  saved.qkv = arena.take(operands, tokens(), config_.query_width() + 2 * config_.kv_width());
  saved.attention = arena.take(operands, tokens(), config_.query_width());
  saved.log_sum_exp = arena.take(DType::f32, config_.heads, tokens());
  saved.middle = arena.take(DType::f32, tokens(), config_.width);
  saved.normed_ffn = arena.take(operands, tokens(), config_.width);
  saved.gate_up = arena.take(operands, tokens(), 2 * config_.ffn);
  saved.inverse_rms_attention = arena.take(DType::f32, 1, tokens());
  saved.inverse_rms_ffn = arena.take(DType::f32, 1, tokens());
  linears.qkv->take_saved(arena, tokens(), saved.to_qkv);
  linears.output->take_saved(arena, tokens(), saved.to_output);
  linears.gate_up->take_saved(arena, tokens(), saved.to_gate_up);
  linears.down->take_saved(arena, tokens(), saved.to_down);
  saved.to_qkv.input = saved.normed_attention;
  saved.to_output.input = saved.attention;
  saved.to_gate_up.input = saved.normed_ffn;
  return saved;
}

ParameterSet Llama::make_weights() const { return {layout_, recipe_.operands, DType::f32, true, "weights"}; }
ParameterSet Llama::make_gradients() const { return {layout_, DType::f32, DType::f32, false, "gradients"}; }

void Llama::state(StateList& list) {
  for (const BlockLinears& linears : linears_)
    for (Linear* linear : {linears.qkv.get(), linears.output.get(), linears.gate_up.get(), linears.down.get()})
      linear->state(list);
}

void Llama::check(const MicroBatch& batch) const {
  const auto size = static_cast<size_t>(tokens());
  const bool fits = batch.inputs.size() == size && (batch.targets.empty() || batch.targets.size() == size) &&
                    (batch.document_starts.empty() || batch.document_starts.size() == size);
  if (!fits)
    throw Error({.kind = ErrorKind::internal,
                 .what = "a micro-batch of another size than the model was built for",
                 .seen = fmt::format("{} inputs, {} targets", batch.inputs.size(), batch.targets.size()),
                 .allowed = fmt::format("{} tokens", size)});
  const auto refuse = [&](const char* what, int32_t id) {
    throw Error({.kind = ErrorKind::data,
                 .what = fmt::format("{} outside the vocabulary", what),
                 .seen = std::to_string(id),
                 .allowed = fmt::format("0 to {}", config_.vocabulary - 1),
                 .next = "use tokens made with the model's own tokenizer"});
  };
  for (const int32_t id : batch.inputs)
    if (id < 0 || id >= config_.vocabulary) refuse("a token id", id);
  for (const int32_t id : batch.targets)
    if (id < -1 || id >= config_.vocabulary) refuse("a target", id);
}

void Llama::block_forward(const ParameterSet& weights, int64_t layer, const MicroBatch& batch, const LinearCall& call) {
  const int l = static_cast<int>(layer);
  const auto epsilon = static_cast<float>(config_.norm_epsilon);
  const Tensor &in = residual(layer), &out = residual(layer + 1);
  BlockSaved& s = saved(layer);
  const BlockLinears& linears = linears_[static_cast<size_t>(layer)];

  rms_norm_forward(stream_, in, weights.buffer(layout_.attention_norm(l)), epsilon, s.normed_attention,
                   s.inverse_rms_attention);
  linears.qkv->forward(stream_, call, s.normed_attention, weights.buffer(layout_.qkv(l)), s.qkv, {}, s.to_qkv);
  rope(stream_, rope_, config_.heads + config_.kv_heads, config_.head_dim, options_.length, 0, Rotation::forward, s.qkv);
  attention_forward(stream_, attention_shape_, s.qkv, batch.document_starts, attention_scratch_, s.attention, s.log_sum_exp);
  linears.output->forward(stream_, call, s.attention, weights.buffer(layout_.output(l)), s.middle, in, s.to_output);

  rms_norm_forward(stream_, s.middle, weights.buffer(layout_.ffn_norm(l)), epsilon, s.normed_ffn, s.inverse_rms_ffn);
  linears.gate_up->forward(stream_, call, s.normed_ffn, weights.buffer(layout_.gate_up(l)), s.gate_up, {}, s.to_gate_up);
  swiglu_forward(stream_, s.gate_up, activation_);
  linears.down->forward(stream_, call, activation_, weights.buffer(layout_.down(l)), out, s.middle, s.to_down);
}

/// On entry dresidual_ and dresidual_operand_ hold the gradient of the block's output, on return that of its input.
void Llama::block_backward(const ParameterSet& weights, int64_t layer, const MicroBatch& batch,
                           const BackwardOptions& options, const ParameterSet& gradients) {
  const int l = static_cast<int>(layer);
  BlockSaved& s = saved(layer);
  const BlockLinears& linears = linears_[static_cast<size_t>(layer)];
  const auto linear_backward = [&](Linear& linear, int buffer, const Tensor& dy, const LinearSaved& saved_tensors,
                                   const Tensor& dx) {
    linear.backward(stream_, options.call, dy, weights.buffer(buffer), saved_tensors, dx, gradients.buffer(buffer),
                    options.accumulate);
    if (options.ready) options.ready(buffer);
  };
  const auto norm_backward = [&](int buffer, const Tensor& x, const Tensor& inverse_rms) {
    rms_norm_backward(stream_, dnormed_, x, weights.buffer(buffer), inverse_rms, dresidual_, dresidual_operand_,
                      gradients.buffer(buffer), options.accumulate);
    if (options.ready) options.ready(buffer);
  };

  if (options_.recompute == Recompute::block) {
    LinearCall again = options.call;
    again.recomputing = true;
    block_forward(weights, layer, batch, again);
  } else if (linears.down->keeps_input()) {
    swiglu_forward(stream_, s.gate_up, activation_);
  }
  s.to_down.input = activation_;
  linear_backward(*linears.down, layout_.down(l), dresidual_operand_, s.to_down, dactivation_);
  swiglu_backward(stream_, dactivation_, s.gate_up, dgate_up_);
  linear_backward(*linears.gate_up, layout_.gate_up(l), dgate_up_, s.to_gate_up, dnormed_);
  norm_backward(layout_.ffn_norm(l), s.middle, s.inverse_rms_ffn);

  linear_backward(*linears.output, layout_.output(l), dresidual_operand_, s.to_output, dattention_);
  attention_backward(stream_, attention_shape_, dattention_, s.qkv, batch.document_starts, s.attention, s.log_sum_exp,
                     attention_scratch_, dqkv_);
  rope(stream_, rope_, config_.heads + config_.kv_heads, config_.head_dim, options_.length, 0, Rotation::backward, dqkv_);
  linear_backward(*linears.qkv, layout_.qkv(l), dqkv_, s.to_qkv, dnormed_);
  norm_backward(layout_.attention_norm(l), residual(layer), s.inverse_rms_attention);
}

void Llama::run_blocks(const ParameterSet& weights, const MicroBatch& batch, const LinearCall& call) {
  check(batch);
  embedding_forward(stream_, batch.inputs, weights.buffer(layout_.embedding()), residual(0));
  for (int64_t layer = 0; layer < config_.layers; ++layer) block_forward(weights, layer, batch, call);
  rms_norm_forward(stream_, residual(config_.layers), weights.buffer(layout_.final_norm()),
                   static_cast<float>(config_.norm_epsilon), normed_final_, inverse_rms_final_);
}

double Llama::loss(const ParameterSet& weights, const MicroBatch& batch) {
  run_blocks(weights, batch, {});
  return head_loss(stream_, normed_final_, weights.buffer(layout_.head()), batch.targets, loss_scratch_, nullptr);
}

void Llama::logits(const ParameterSet& weights, const MicroBatch& batch, const Tensor& logits) {
  run_blocks(weights, batch, {});
  gemm(stream_, normed_final_, Transpose::no, weights.buffer(layout_.head()), Transpose::yes, logits);
}

double Llama::loss_and_gradients(const ParameterSet& weights, const MicroBatch& batch, const BackwardOptions& options,
                                 const ParameterSet& gradients) {
  run_blocks(weights, batch, options.call);
  const Tensor& dhead = gradients.buffer(layout_.head());
  const LossGradients loss_gradients{options.loss_scale, dnormed_, dhead, options.accumulate};
  const double loss = head_loss(stream_, normed_final_, weights.buffer(layout_.head()), batch.targets, loss_scratch_,
                                &loss_gradients);
  if (options.ready && !config_.tied) options.ready(layout_.head());

  set_zero(stream_, dresidual_);
  rms_norm_backward(stream_, dnormed_, residual(config_.layers), weights.buffer(layout_.final_norm()), inverse_rms_final_,
                    dresidual_, dresidual_operand_, gradients.buffer(layout_.final_norm()), options.accumulate);
  if (options.ready) options.ready(layout_.final_norm());
  for (int64_t layer = config_.layers - 1; layer >= 0; --layer) block_backward(weights, layer, batch, options, gradients);

  // A tied table already holds the head's gradient of this micro-batch.
  const Tensor& dtable = gradients.buffer(layout_.embedding());
  if (!config_.tied && !options.accumulate) set_zero(stream_, dtable);
  embedding_backward(stream_, batch.inputs, dresidual_, dtable);
  if (options.ready) options.ready(layout_.embedding());
  return loss;
}

void initialize(Stream& stream, const ModelConfig& config, const ParameterLayout& layout, uint64_t seed, double deviation,
                const ParameterSet& weights) {
  for (size_t index = 0; index < layout.parameters().size(); ++index) {
    const ParameterInfo& info = layout.parameters()[index];
    float* w = weights[index].as<float>();
    if (info.kind == ParameterKind::norm) {
      std::fill_n(w, info.size(), 1.0f);
      continue;
    }
    const RandomStream random(seed, Purpose::initialization, 0, static_cast<uint32_t>(index));
    const auto scale =
        static_cast<float>(info.to_residual ? deviation / std::sqrt(2.0 * static_cast<double>(config.layers)) : deviation);
    parallel_for(stream, info.size(), 2, [&](int64_t begin, int64_t end) {
      for (int64_t element = begin; element < end; element += 2) {
        const std::array<float, 2> normals = random.normal_pair(static_cast<uint64_t>(element) / 2);
        for (int64_t i = element; i < std::min(element + 2, end); ++i) w[i] = scale * normals[static_cast<size_t>(i - element)];
      }
    });
  }
}

void copy_parameters(Stream& stream, const ParameterSet& from, const ParameterSet& to) {
  for (size_t index = 0; index < from.size(); ++index) convert(stream, from[index], to[index]);
}

}  // namespace nibble
