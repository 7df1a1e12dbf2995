// Generation: a Llama that reads tokens piece by piece and keeps the keys and values of earlier ones.
//
// Same kernels and linear operators as the training pass; only attention differs, since its queries are few and its
// keys lie in the cache. Not for: training (llama.hpp), sampling (trainer/generation.hpp).
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "model/config.hpp"
#include "model/parameters.hpp"
#include "model/rope.hpp"
#include "quant/linear.hpp"

namespace nibble {

class Decoder {
 public:
  /// One sequence of up to `capacity` tokens. `weights` must outlive the decoder.
  Decoder(Stream& stream, const ModelConfig& config, const Precision& precision, const ParameterSet& weights,
          int64_t capacity);

  int64_t position() const { return position_; }
  int64_t capacity() const { return capacity_; }

  /// Reads `ids` behind what was read before; the logits (f32, vocabulary) of the token that follows the last one.
  /// Throws Error{data} for an id outside the vocabulary, Error{internal} when the capacity is exceeded.
  std::span<const float> read(std::span<const int32_t> ids);

 private:
  /// At most this many tokens at once; longer inputs are cut.
  static constexpr int64_t chunk = 64;

  struct Block {
    std::unique_ptr<Linear> qkv, output, gate_up, down;
    Tensor keys, values;  ///< [capacity, KV hd], operand type
  };

  void lay_out(Arena& arena);
  void read_chunk(std::span<const int32_t> ids);
  void attend(const Block& block, int64_t tokens);
  void normalize_heads(int layer, const Tensor& qkv);

  Stream& stream_;
  ModelConfig config_;
  Precision precision_;
  const ParameterSet& weights_;
  ParameterLayout layout_;
  RopeTable rope_;
  int64_t capacity_;
  int64_t position_ = 0;
  std::vector<Block> blocks_;
  Arena arena_;
  Tensor residual_, middle_, normed_, inverse_rms_, qkv_, attention_, gate_up_, activation_, logits_;
  Tensor attention_scratch_;  ///< see cached_attention
  Tensor linear_scratch_;
};

}  // namespace nibble
