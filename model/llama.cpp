#include "model/llama.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <set>

#include "model/made_inputs.hpp"
#include "tensor/convert.hpp"
#include "tensor/error.hpp"
#include "tensor/fill.hpp"
#include "tensor/gemm.hpp"
#include "tensor/staging.hpp"

namespace nibble {

Llama::Llama(Stream& stream, const ModelConfig& config, const Precision& precision, const LlamaOptions& options)
    : stream_(stream),
      config_(config.validated()),
      precision_(precision),
      options_(options),
      attention_shape_{options.sequences, options.length, config.heads, config.kv_heads, config.head_dim},
      layout_(config, precision.learns()),
      rope_(stream, config, options.length),
      max_logits_(static_cast<size_t>(config.layers * config.heads)) {
  forget_max_logits();
  for (int layer = 0; layer < config.layers; ++layer) {
    const auto operator_of = [&](Projection projection, int buffer, bool input_stays) {
      const BufferInfo& info = layout_.buffers()[static_cast<size_t>(buffer)];
      return make_linear(precision_.phases(layer, projection), {.name = info.name,
                                                                .in = info.cols,
                                                                .out = info.rows,
                                                                .tokens = options.training ? tokens() : 0,
                                                                .id = static_cast<uint32_t>(buffer),
                                                                .seed = options.seed,
                                                                .input_stays = input_stays});
    };
    linears_.push_back({operator_of(Projection::qkv, layout_.qkv(layer), false),
                        operator_of(Projection::output, layout_.output(layer), true),
                        operator_of(Projection::gate_up, layout_.gate_up(layer), false),
                        operator_of(Projection::down, layout_.down(layer), true)});
  }
  arena_ = Arena(
      "activations", [this](Arena& arena) { lay_out(arena); }, stream.place());
  const auto lay_out_scratch = [this](Arena& arena) {
    size_t of_linear = 0;
    for_each_linear(
        [&](const Linear& linear) { of_linear = std::max(of_linear, linear.scratch_bytes(stream_, tokens())); });
    linear_scratch_ = arena.take(DType::u8, 1, static_cast<int64_t>(of_linear));
    attention_scratch_ = AttentionScratch(arena, attention_shape_, precision_.operands(), stream_, options_.training,
                                          options_.attention);
    loss_scratch_ = LossScratch(arena, tokens(), config_.vocabulary, precision_.operands(), options_.training);
    if (options_.training) embedding_scratch_ = EmbeddingScratch(arena, tokens());
  };
  scratch_ = Arena("scratch of attention, linear layers and loss", lay_out_scratch, stream.place());
  if (options.graphs && stream.on_device()) graphs_ = std::make_unique<BlockGraphs>(stream, precision, config.layers);
}

/// Whether two blocks leave the same for their backward passes.
static bool same_recipes(const Precision& precision, int64_t a, int64_t b) {
  return std::ranges::all_of(projections, [&](Projection projection) {
    return std::ranges::equal(precision.phases(a, projection), precision.phases(b, projection),
                              [](const Precision::Phase& one, const Precision::Phase& other) {
                                return one.first_step == other.first_step && one.recipe == other.recipe;
                              });
  });
}

void Llama::lay_out(Arena& arena) {
  const DType operands = precision_.operands();
  const bool keep_all = options_.training && options_.recompute == Recompute::none;
  residual_.clear();
  saved_.clear();
  for (int64_t i = 0; i < (options_.training ? config_.layers + 1 : 2); ++i)
    residual_.push_back(arena.take(DType::f32, tokens(), config_.width));
  normed_scratch_ = arena.take(operands, tokens(), config_.width);
  activation_ = arena.take(operands, tokens(), config_.ffn);
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    // Blocks that are computed again take turns in one memory, those of other recipes in another one.
    int64_t same = keep_all ? layer : 0;
    while (same < layer && options_.training && !same_recipes(precision_, same, layer)) ++same;
    saved_.push_back(same < layer ? saved_[static_cast<size_t>(same)]
                                  : take_block_saved(arena, linears_[static_cast<size_t>(layer)]));
  }
  normed_final_ = arena.take(operands, tokens(), config_.width);
  inverse_rms_final_ = arena.take(DType::f32, 1, tokens());
  if (stream_.on_device()) {
    device_batch_ = arena.take(DType::i32, 3, tokens());
    device_max_logits_ = arena.take(DType::f32, 1, std::ssize(max_logits_));
  }
  if (!options_.training) return;
  dresidual_ = arena.take(DType::f32, tokens(), config_.width);
  dresidual_operand_ = arena.take(operands, tokens(), config_.width);
  dactivation_ = arena.take(operands, tokens(), config_.ffn);
  dqkv_ = arena.take(operands, tokens(), config_.query_width() + 2 * config_.kv_width());
  dattention_ = arena.take(operands, tokens(), config_.query_width());
  dnormed_ = arena.take(operands, tokens(), config_.width);
  norm_scratch_ = arena.take(DType::f32, rms_norm_scratch_rows(tokens()), config_.width);
  if (config_.qk_norm) head_norm_scratch_ = arena.take(DType::f32, rms_norm_scratch_rows(tokens()), config_.head_dim);
}

Llama::BlockSaved Llama::take_block_saved(Arena& arena, const BlockLinears& linears) const {
  const DType operands = precision_.operands();
  const auto take_input = [&](const Linear& linear) {
    return options_.training && linear.keeps_input() ? arena.take(operands, tokens(), config_.width) : normed_scratch_;
  };
  BlockSaved saved;
  saved.normed_attention = take_input(*linears.qkv);
  saved.qkv = arena.take(operands, tokens(), config_.query_width() + 2 * config_.kv_width());
  saved.attention = arena.take(operands, tokens(), config_.query_width());
  saved.log_sum_exp = arena.take(DType::f32, config_.heads, tokens());
  saved.middle = arena.take(DType::f32, tokens(), config_.width);
  saved.normed_ffn = take_input(*linears.gate_up);
  saved.gate_up = arena.take(operands, tokens(), 2 * config_.ffn);
  saved.inverse_rms_attention = arena.take(DType::f32, 1, tokens());
  saved.inverse_rms_ffn = arena.take(DType::f32, 1, tokens());
  if (!options_.training) return saved;
  if (config_.qk_norm) {
    saved.to_query_norm = {arena.take(operands, tokens(), config_.query_width()),
                           arena.take(DType::f32, tokens(), config_.heads)};
    saved.to_key_norm = {arena.take(operands, tokens(), config_.kv_width()),
                         arena.take(DType::f32, tokens(), config_.kv_heads)};
  }
  linears.qkv->take_saved(arena, tokens(), saved.to_qkv);
  linears.output->take_saved(arena, tokens(), saved.to_output);
  linears.gate_up->take_saved(arena, tokens(), saved.to_gate_up);
  linears.down->take_saved(arena, tokens(), saved.to_down);
  saved.to_qkv.input = saved.normed_attention;
  saved.to_output.input = saved.attention;
  saved.to_gate_up.input = saved.normed_ffn;
  saved.to_down.input = activation_;
  return saved;
}

size_t Llama::gemm_scratch_bytes() const {
  int64_t weights = 0, features = config_.width;  // of the largest matrix; of the widest activation
  for (const BufferInfo& info : layout_.buffers()) {
    weights = std::max(weights, info.rows * info.cols);
    if (info.kind == ParameterKind::projection) features = std::max({features, info.rows, info.cols});
  }
  const int64_t activations = tokens() * features,
                logits = std::max(loss_scratch_.logits.size(), loss_scratch_.dlogits.size());
  const auto scratch_of = [&](DType type, int64_t scaled) {
    return nibble::gemm_scratch_bytes(stream_, type, std::max(activations, logits), std::max(weights, activations),
                                      activations, scaled);
  };
  // Products of several types keep theirs side by side.
  std::set<DType> quantized;
  for_each_linear([&](const Linear& linear) {
    for (const DType type : linear.product_types(stream_)) quantized.insert(type);
  });
  size_t bytes = quantized.contains(precision_.operands()) ? 0 : scratch_of(precision_.operands(), 0);
  for (const DType type : quantized) bytes += scratch_of(type, std::max(weights, activations));
  return bytes;
}

ParameterSet Llama::make_weights(Residency residency, const CodeBits& code_bits) const {
  return {layout_, precision_.operands(), DType::f32, true, "weights", residency, code_bits, stream_.place()};
}

ParameterSet Llama::make_gradients(Residency residency) const {
  return {layout_, DType::f32, DType::f32, false, "gradients", residency, {}, stream_.place()};
}

template <class Action>
void Llama::for_each_linear(Action&& action) const {
  for (const BlockLinears& linears : linears_)
    for (Linear* linear : {linears.qkv.get(), linears.output.get(), linears.gate_up.get(), linears.down.get()})
      action(*linear);
}

bool Llama::weight_residual(const ParameterSet& weights, int buffer, int64_t step, const Tensor& residual) {
  const LinearCall call = call_of({.step = step, .pass = Pass::recomputing}, buffer, weights);
  return linear_of(buffer).weight_residual(stream_, call, weights.buffer(buffer), residual, linear_scratch_);
}

bool Llama::weight_residual(int buffer, int64_t step, const Tensor& rows, float magnitude, const Tensor& residual) {
  const LinearCall call{.step = step, .pass = Pass::recomputing, .weight_magnitude = magnitude};
  return linear_of(buffer).weight_residual(stream_, call, rows, residual, linear_scratch_);
}
float Llama::weight_magnitude(int buffer, const Tensor& rows) const {
  return linear_of(buffer).weight_magnitude(stream_, rows);
}
float Llama::encode_weight(int buffer, const Tensor& rows, float magnitude, const Tensor& codes) const {
  return linear_of(buffer).encode_weight(stream_, rows, magnitude, codes);
}

Linear& Llama::linear_of(int buffer) const {
  const int layer = layout_.buffers()[static_cast<size_t>(buffer)].layer;
  return linears_[static_cast<size_t>(layer)][layout_.projection(buffer)];
}

LinearCall Llama::call_of(const LinearCall& call, int buffer, const ParameterSet& weights,
                          const ParameterSet* gradients) const {
  LinearCall of_buffer = call;
  of_buffer.weight_factor = weights.factor(buffer);
  if (!layout_.learns_steps()) return of_buffer;
  const int layer = layout_.buffers()[static_cast<size_t>(buffer)].layer;
  const auto own = [&](const Tensor& of_block) { return of_block.slice_cols(layout_.first_step(buffer), 2); };
  const int steps = layout_.steps(layer);
  of_buffer.steps = own(initial_steps_ ? initial_steps_.slice_rows(layer, 1) : weights.buffer(steps));
  if (gradients) of_buffer.step_gradients = own(gradients->buffer(steps));
  return of_buffer;
}

OwnedTensor Llama::initial_steps(const ParameterSet& weights, const MicroBatch& batch) {
  constexpr const char* purpose = "first steps of quantizers";
  const OwnedTensor there(DType::f32, config_.layers, 2 * std::ssize(projections), purpose, stream_.place());
  initial_steps_ = there;
  run_blocks(weights, on_stream(batch), {.pass = Pass::calibrating});
  initial_steps_ = {};
  OwnedTensor steps(DType::f32, there.view().rows, there.view().cols, purpose);
  copy(stream_, there, steps);
  stream_.wait();
  return steps;
}

void Llama::state(StateList& list) {
  for_each_linear([&](Linear& linear) { linear.state(list); });
}
std::vector<float*> Llama::statistics() {
  std::vector<float*> list;
  for_each_linear([&](Linear& linear) { linear.statistics(list); });
  return list;
}
void Llama::commit() {
  for_each_linear([](Linear& linear) { linear.commit(); });
}
void Llama::discard() {
  for_each_linear([](Linear& linear) { linear.discard(); });
}

void Llama::forget_max_logits() {
  constexpr float none = -std::numeric_limits<float>::infinity();
  std::ranges::fill(max_logits_, none);
  if (device_max_logits_) fill(stream_, device_max_logits_, none);
}

std::span<float> Llama::max_logits_of(int64_t layer) {
  const auto heads = static_cast<size_t>(config_.heads), first = static_cast<size_t>(layer) * heads;
  if (device_max_logits_) return {device_max_logits_.on_device<float>() + first, heads};
  return std::span(max_logits_).subspan(first, heads);
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
  if (attention_scratch_.by_library() && std::ranges::any_of(batch.document_starts, [](int32_t at) { return at != 0; }))
    throw Error({.kind = ErrorKind::internal,
                 .what = "cuDNN's attention crosses documents",
                 .seen = "sequences of several documents that it must not cross",
                 .allowed = "document_starts of 0"});
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

MicroBatch Llama::on_stream(const MicroBatch& batch) const {
  check(batch);
  if (!stream_.on_device()) return batch;
  const auto there = [this](int64_t row, std::span<const int32_t> values) {
    if (values.empty()) return values;
    const Tensor to = device_batch_.slice_rows(row, 1);
    // A pass may end before its work does: with an error, where weights do not come. Then the batch is gone, too.
    int32_t* const staged = stream_.staging().take<int32_t>(values.size()).host;
    std::ranges::copy(values, staged);
    stream_.queue().copy(to.data, staged, values.size_bytes());
    return std::span<const int32_t>(to.on_device<int32_t>(), values.size());
  };
  return {there(0, batch.inputs), there(1, batch.targets), there(2, batch.document_starts)};
}

/// Whether a backward pass follows.
static bool keeps(const LinearCall& call) { return call.pass == Pass::training || call.pass == Pass::recomputing; }

void Llama::qk_norm_forward(const ParameterSet& weights, int layer) {
  const BlockSaved& s = saved(layer);
  const Tensor& gains = weights.buffer(layout_.qk_norm(layer));
  const auto epsilon = static_cast<float>(config_.norm_epsilon);
  head_norm_forward(stream_, gains.slice_rows(0, 1), epsilon, s.qkv.slice_cols(0, config_.query_width()),
                    options_.training ? &s.to_query_norm : nullptr);
  head_norm_forward(stream_, gains.slice_rows(1, 1), epsilon,
                    s.qkv.slice_cols(config_.query_width(), config_.kv_width()),
                    options_.training ? &s.to_key_norm : nullptr);
}

void Llama::qk_norm_backward(const ParameterSet& weights, int layer, const ParameterSet& gradients) {
  const BlockSaved& s = saved(layer);
  const Tensor &gains = weights.buffer(layout_.qk_norm(layer)), &dgains = gradients.buffer(layout_.qk_norm(layer));
  head_norm_backward(stream_, gains.slice_rows(0, 1), s.to_query_norm, dqkv_.slice_cols(0, config_.query_width()),
                     dgains.slice_rows(0, 1), head_norm_scratch_);
  head_norm_backward(stream_, gains.slice_rows(1, 1), s.to_key_norm,
                     dqkv_.slice_cols(config_.query_width(), config_.kv_width()), dgains.slice_rows(1, 1),
                     head_norm_scratch_);
}

void Llama::block_forward_to_gates(const ParameterSet& weights, int64_t layer, const MicroBatch& batch,
                                   const LinearCall& call) {
  const int l = static_cast<int>(layer);
  const auto epsilon = static_cast<float>(config_.norm_epsilon);
  const Tensor& in = residual(layer);
  BlockSaved& s = saved(layer);
  const BlockLinears& linears = linears_[static_cast<size_t>(layer)];
  const auto linear_forward = [&](Linear& linear, int buffer, const auto& x, const Tensor& y, const Tensor& residual,
                                  LinearSaved& kept) {
    linear.forward(stream_, call_of(call, buffer, weights), x, weights.buffer(buffer), y, residual,
                   keeps(call) ? &kept : nullptr, linear_scratch_);
  };

  const NormedInput to_attention(in, weights.buffer(layout_.attention_norm(l)), epsilon, s.normed_attention,
                                 s.inverse_rms_attention);
  linear_forward(*linears.qkv, layout_.qkv(l), to_attention, s.qkv, {}, s.to_qkv);
  if (config_.qk_norm) qk_norm_forward(weights, l);
  rope(stream_, rope_, config_.heads + config_.kv_heads, config_.head_dim, options_.length, 0, RopeDirection::forward,
       s.qkv);
  attention_forward(stream_, attention_shape_, s.qkv, batch.document_starts, attention_scratch_, s.attention,
                    s.log_sum_exp, call.pass == Pass::training ? max_logits_of(layer) : std::span<float>());
  linear_forward(*linears.output, layout_.output(l), s.attention, s.middle, in, s.to_output);

  const NormedInput to_ffn(s.middle, weights.buffer(layout_.ffn_norm(l)), epsilon, s.normed_ffn, s.inverse_rms_ffn);
  linear_forward(*linears.gate_up, layout_.gate_up(l), to_ffn, s.gate_up, {}, s.to_gate_up);
}

void Llama::down_forward(const ParameterSet& weights, int64_t layer, const LinearCall& call) {
  BlockSaved& s = saved(layer);
  const int buffer = layout_.down(static_cast<int>(layer));
  const GatedInput activation(s.gate_up, activation_, !is_last(layer));
  linear_of(buffer).forward(stream_, call_of(call, buffer, weights), activation, weights.buffer(buffer),
                            residual(layer + 1), s.middle, keeps(call) ? &s.to_down : nullptr, linear_scratch_);
}

void Llama::restore_activations(const ParameterSet& weights, int64_t layer, const MicroBatch& batch,
                                const LinearCall& call) {
  if (is_last(layer)) return;  // its own are still there
  if (options_.recompute == Recompute::block) {
    LinearCall again = call;
    again.pass = Pass::recomputing;
    block_forward_to_gates(weights, layer, batch, again);
  }
  swiglu_forward(stream_, saved(layer).gate_up, activation_);
}

/// On entry dresidual_ and dresidual_operand_ hold the gradient of the block's output, on return that of its input.
void Llama::block_backward(const ParameterSet& weights, int64_t layer, const MicroBatch& batch,
                           const BackwardOptions& options, const ParameterSet& gradients) {
  const int l = static_cast<int>(layer);
  BlockSaved& s = saved(layer);
  const BlockLinears& linears = linears_[static_cast<size_t>(layer)];
  const auto linear_backward = [&](Linear& linear, int buffer, const Tensor& dy, const LinearSaved& kept,
                                   const Tensor& dx) {
    linear.backward(stream_, call_of(options.call, buffer, weights, &gradients), dy, weights.buffer(buffer), kept, dx,
                    gradients.buffer(buffer), linear_scratch_);
    if (options.ready) options.ready(buffer);
  };
  const auto norm_backward = [&](int buffer, const Tensor& x, const Tensor& inverse_rms) {
    rms_norm_backward(stream_, dnormed_, x, weights.buffer(buffer), inverse_rms, dresidual_, dresidual_operand_,
                      gradients.buffer(buffer), norm_scratch_);
    if (options.ready) options.ready(buffer);
  };

  restore_activations(weights, layer, batch, options.call);
  if (layout_.learns_steps()) fill(stream_, gradients.buffer(layout_.steps(l)), 0.0f);  // operators that learn write
  linear_backward(*linears.down, layout_.down(l), dresidual_operand_, s.to_down, dactivation_);
  swiglu_backward(stream_, dactivation_, s.gate_up, s.gate_up);
  linear_backward(*linears.gate_up, layout_.gate_up(l), s.gate_up, s.to_gate_up, dnormed_);
  norm_backward(layout_.ffn_norm(l), s.middle, s.inverse_rms_ffn);

  linear_backward(*linears.output, layout_.output(l), dresidual_operand_, s.to_output, dattention_);
  attention_backward(stream_, attention_shape_, dattention_, s.qkv, batch.document_starts, s.attention, s.log_sum_exp,
                     attention_scratch_, dqkv_);
  rope(stream_, rope_, config_.heads + config_.kv_heads, config_.head_dim, options_.length, 0, RopeDirection::backward,
       dqkv_);
  if (config_.qk_norm) {
    qk_norm_backward(weights, l, gradients);
    if (options.ready) options.ready(layout_.qk_norm(l));
  }
  linear_backward(*linears.qkv, layout_.qkv(l), dqkv_, s.to_qkv, dnormed_);
  norm_backward(layout_.attention_norm(l), residual(layer), s.inverse_rms_attention);
  if (layout_.learns_steps() && options.ready) options.ready(layout_.steps(l));
}

BlockGraphs* Llama::graphs_for(const LinearCall& call) const {
  const bool watched = call.observer || stream_.profile() || initial_steps_;
  return call.pass == Pass::training && !watched ? graphs_.get() : nullptr;
}

void Llama::run_blocks(const ParameterSet& weights, const MicroBatch& batch, const LinearCall& call) {
  weights.await(layout_.embedding_unit());
  embedding_forward(stream_, batch.inputs, weights.buffer(layout_.embedding()), residual(0));
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    weights.await(layout_.block_unit(layer));
    const auto queue_block = [&] {
      block_forward_to_gates(weights, layer, batch, call);
      down_forward(weights, layer, call);
    };
    if (BlockGraphs* const graphs = graphs_for(call))
      graphs->run(layer, BlockGraphs::Part::forward, call.step, queue_block);
    else queue_block();
  }
  weights.await(layout_.head_unit());
  rms_norm_forward(stream_, residual(config_.layers), weights.buffer(layout_.final_norm()),
                   static_cast<float>(config_.norm_epsilon), normed_final_, inverse_rms_final_);
}

double Llama::loss(const ParameterSet& weights, const MicroBatch& given, int64_t step) {
  const MicroBatch batch = on_stream(given);
  run_blocks(weights, batch, {.step = step});
  head_loss(stream_, normed_final_, weights.buffer(layout_.head()), batch.targets, loss_scratch_, nullptr);
  return loss_sums(stream_, loss_scratch_, std::ssize(batch.targets)).cross_entropy;
}

void Llama::losses(const ParameterSet& weights, const MicroBatch& given, std::span<float> losses, int64_t step) {
  loss(weights, given, step);
  token_losses(stream_, loss_scratch_, losses);
}

void Llama::logits(const ParameterSet& weights, const MicroBatch& batch, const Tensor& logits,
                   const ResidualStream& stream) {
  run_blocks(weights, on_stream(batch), {.step = last_step});
  if (stream) {
    assert(options_.training);
    for (int64_t layer = 0; layer <= config_.layers; ++layer) stream(layer, residual(layer));
  }
  gemm(stream_, normed_final_, Transpose::no, weights.buffer(layout_.head()), Transpose::yes, logits);
}

LossSums Llama::loss_and_gradients(const ParameterSet& weights, const MicroBatch& given, const BackwardOptions& options,
                                   const ParameterSet& gradients) {
  const MicroBatch batch = on_stream(given);
  run_blocks(weights, batch, options.call);
  gradients.await(layout_.head_unit());
  const Tensor& dhead = gradients.buffer(layout_.head());
  const LossGradients loss_gradients{{options.loss_scale, options.z_loss}, dnormed_, dhead};
  head_loss(stream_, normed_final_, weights.buffer(layout_.head()), batch.targets, loss_scratch_, &loss_gradients);
  if (options.ready && !config_.tied) options.ready(layout_.head());

  fill(stream_, dresidual_, 0.0f);
  rms_norm_backward(stream_, dnormed_, residual(config_.layers), weights.buffer(layout_.final_norm()),
                    inverse_rms_final_, dresidual_, dresidual_operand_, gradients.buffer(layout_.final_norm()),
                    norm_scratch_);
  if (options.ready) options.ready(layout_.final_norm());
  if (options.residual) options.residual(config_.layers, dresidual_);
  for (int64_t layer = config_.layers - 1; layer >= 0; --layer) {
    weights.await(layout_.block_unit(layer));
    gradients.await(layout_.block_unit(layer));
    if (BlockGraphs* const graphs = graphs_for(options.call)) {
      // Whoever is told may bring in other queues.
      std::vector<int> ready;
      BackwardOptions within = options;
      within.ready = [&](int buffer) { ready.push_back(buffer); };
      graphs->run(layer, BlockGraphs::Part::backward, options.call.step,
                  [&] { block_backward(weights, layer, batch, within, gradients); });
      if (options.ready) std::ranges::for_each(ready, options.ready);
    } else {
      block_backward(weights, layer, batch, options, gradients);
    }
    if (options.residual) options.residual(layer, dresidual_);
  }

  // A tied table already holds the head's gradient of this micro-batch.
  gradients.await(layout_.embedding_unit());
  const Tensor& dtable = gradients.buffer(layout_.embedding());
  if (!config_.tied) fill(stream_, dtable, 0.0f);
  embedding_backward(stream_, batch.inputs, dresidual_, embedding_scratch_, dtable);
  if (options.ready) options.ready(layout_.embedding());
  if (device_max_logits_) copy(stream_, device_max_logits_, Tensor(max_logits_.data(), 1, std::ssize(max_logits_)));
  return loss_sums(stream_, loss_scratch_, std::ssize(batch.targets));
}

void initialize(Stream& stream, const ModelConfig& config, const ParameterLayout& layout, uint64_t seed,
                double deviation, const ParameterSet& weights) {
  for (size_t index = 0; index < weights.size(); ++index)
    initialize_parameter(stream, config, layout, index, seed, deviation, weights[index]);
}

void initialize_parameter(Stream& stream, const ModelConfig& config, const ParameterLayout& layout, size_t parameter,
                          uint64_t seed, double deviation, const Tensor& weights) {
  const ParameterInfo& info = layout.parameters()[parameter];
  if (info.kind == ParameterKind::norm) return fill(stream, weights, 1.0f);
  if (info.kind == ParameterKind::step) return fill(stream, weights, 0.0f);
  const double scale = info.to_residual ? deviation / std::sqrt(2.0 * static_cast<double>(config.layers)) : deviation;
  fill_normal(stream, RandomStream(seed, Purpose::initialization, 0, static_cast<uint32_t>(parameter)),
              static_cast<float>(scale), weights);
}

void copy_parameters(Stream& stream, const ParameterSet& from, const ParameterSet& to) {
  for (size_t index = 0; index < to.size(); ++index) convert(stream, from[index], to[index]);
}

}  // namespace nibble
