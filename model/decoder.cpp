#include "model/decoder.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "model/cached_attention.hpp"
#include "model/embedding.hpp"
#include "model/norm.hpp"
#include "model/swiglu.hpp"
#include "tensor/convert.hpp"
#include "tensor/error.hpp"
#include "tensor/gemm.hpp"

namespace nibble {

Decoder::Decoder(Stream& stream, const ModelConfig& config, const Precision& precision, const ParameterSet& weights,
                 int64_t capacity)
    : stream_(stream),
      config_(config),
      precision_(precision),
      weights_(weights),
      layout_(config, precision.learns()),
      rope_(stream, config, capacity),
      capacity_(capacity) {
  for (int layer = 0; layer < config.layers; ++layer) {
    const auto operator_of = [&](Projection projection, int buffer) {
      const BufferInfo& info = layout_.buffers()[static_cast<size_t>(buffer)];
      return make_linear(precision_.phases(layer, projection), {.name = info.name, .in = info.cols, .out = info.rows});
    };
    blocks_.push_back({operator_of(Projection::qkv, layout_.qkv(layer)),
                       operator_of(Projection::output, layout_.output(layer)),
                       operator_of(Projection::gate_up, layout_.gate_up(layer)),
                       operator_of(Projection::down, layout_.down(layer)),
                       {},
                       {}});
  }
  arena_ = Arena("generation", [this](Arena& arena) { lay_out(arena); });
}

void Decoder::lay_out(Arena& arena) {
  const DType operands = precision_.operands();
  size_t linear_scratch = 0;
  for (Block& block : blocks_) {
    for (const Linear* linear : {block.qkv.get(), block.output.get(), block.gate_up.get(), block.down.get()})
      linear_scratch = std::max(linear_scratch, linear->scratch_bytes(stream_, chunk));
    block.keys = arena.take(operands, capacity_, config_.kv_width());
    block.values = arena.take(operands, capacity_, config_.kv_width());
  }
  linear_scratch_ = arena.take(DType::u8, 1, static_cast<int64_t>(linear_scratch));
  residual_ = arena.take(DType::f32, chunk, config_.width);
  middle_ = arena.take(DType::f32, chunk, config_.width);
  normed_ = arena.take(operands, chunk, config_.width);
  inverse_rms_ = arena.take(DType::f32, 1, chunk);
  qkv_ = arena.take(operands, chunk, config_.query_width() + 2 * config_.kv_width());
  attention_ = arena.take(operands, chunk, config_.query_width());
  gate_up_ = arena.take(operands, chunk, 2 * config_.ffn);
  activation_ = arena.take(operands, chunk, config_.ffn);
  logits_ = arena.take(DType::f32, 1, config_.vocabulary);
  attention_scratch_ = arena.take(DType::f32, stream_.threads(), capacity_ + config_.head_dim);
}

std::span<const float> Decoder::read(std::span<const int32_t> ids) {
  if (ids.empty() || position_ + static_cast<int64_t>(ids.size()) > capacity_)
    throw Error({.kind = ErrorKind::internal,
                 .what = "the decoder cannot read so many tokens",
                 .seen = fmt::format("{} after {}", ids.size(), position_),
                 .allowed = fmt::format("1 to {}", capacity_ - position_)});
  for (const int32_t id : ids)
    if (id < 0 || id >= config_.vocabulary)
      throw Error({.kind = ErrorKind::data,
                   .what = "a token id outside the vocabulary",
                   .seen = std::to_string(id),
                   .allowed = fmt::format("0 to {}", config_.vocabulary - 1)});
  while (!ids.empty()) {
    const size_t count = std::min(ids.size(), static_cast<size_t>(chunk));
    read_chunk(ids.first(count));
    ids = ids.subspan(count);
  }
  return {logits_.as<float>(), static_cast<size_t>(config_.vocabulary)};
}

void Decoder::attend(const Block& block, int64_t tokens) {
  const Tensor qkv = qkv_.slice_rows(0, tokens);
  convert(stream_, qkv.slice_cols(config_.query_width(), config_.kv_width()), block.keys.slice_rows(position_, tokens));
  convert(stream_, qkv.slice_cols(config_.query_width() + config_.kv_width(), config_.kv_width()),
          block.values.slice_rows(position_, tokens));
  cached_attention(stream_, config_.kv_heads, config_.head_dim, position_, qkv.slice_cols(0, config_.query_width()),
                   block.keys, block.values, attention_scratch_, attention_.slice_rows(0, tokens));
}

void Decoder::normalize_heads(int layer, const Tensor& qkv) {
  const Tensor& gains = weights_.buffer(layout_.qk_norm(layer));
  const auto epsilon = static_cast<float>(config_.norm_epsilon);
  head_norm_forward(stream_, gains.slice_rows(0, 1), epsilon, qkv.slice_cols(0, config_.query_width()), nullptr);
  head_norm_forward(stream_, gains.slice_rows(1, 1), epsilon, qkv.slice_cols(config_.query_width(), config_.kv_width()),
                    nullptr);
}

void Decoder::read_chunk(std::span<const int32_t> ids) {
  const auto tokens = static_cast<int64_t>(ids.size());
  const auto rows = [&](const Tensor& x) { return x.slice_rows(0, tokens); };
  const auto epsilon = static_cast<float>(config_.norm_epsilon);
  const auto norm = [&](const Tensor& x, int buffer) {
    rms_norm_forward(stream_, rows(x), weights_.buffer(buffer), epsilon, rows(normed_), inverse_rms_);
  };
  embedding_forward(stream_, ids, weights_.buffer(layout_.embedding()), rows(residual_));
  for (int layer = 0; layer < config_.layers; ++layer) {
    const Block& block = blocks_[static_cast<size_t>(layer)];
    const auto linear = [&](Linear& operation, int buffer, const Tensor& x, const Tensor& y, const Tensor& residual) {
      LinearCall call{.step = last_step};
      if (layout_.learns_steps())
        call.steps = weights_.buffer(layout_.steps(layer)).slice_cols(layout_.first_step(buffer), 2);
      operation.forward(stream_, call, rows(x), weights_.buffer(buffer), rows(y), residual ? rows(residual) : Tensor(),
                        nullptr, linear_scratch_);
    };
    norm(residual_, layout_.attention_norm(layer));
    linear(*block.qkv, layout_.qkv(layer), normed_, qkv_, {});
    if (config_.qk_norm) normalize_heads(layer, rows(qkv_));
    rope(stream_, rope_, config_.heads + config_.kv_heads, config_.head_dim, tokens, position_, RopeDirection::forward,
         rows(qkv_));
    attend(block, tokens);
    linear(*block.output, layout_.output(layer), attention_, middle_, residual_);
    norm(middle_, layout_.ffn_norm(layer));
    linear(*block.gate_up, layout_.gate_up(layer), normed_, gate_up_, {});
    swiglu_forward(stream_, rows(gate_up_), rows(activation_));
    linear(*block.down, layout_.down(layer), activation_, residual_, middle_);
  }
  norm(residual_, layout_.final_norm());
  gemm(stream_, normed_.slice_rows(tokens - 1, 1), Transpose::no, weights_.buffer(layout_.head()), Transpose::yes,
       logits_);
  position_ += tokens;
}

}  // namespace nibble
