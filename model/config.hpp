// The shape of a Llama, as Hugging Face's config.json and the YAML file both describe it.
#pragma once

#include <cstdint>
#include <optional>

namespace nibble {

/// Llama 3.1's rescaling of low RoPE frequencies ("rope_type": "llama3").
struct RopeScaling {
  double factor = 8;
  double low_frequency_factor = 1;
  double high_frequency_factor = 4;
  int64_t original_context = 8192;

  bool operator==(const RopeScaling&) const = default;
};

struct ModelConfig {
  int64_t vocabulary = 0;
  int64_t width = 0;     ///< d, the residual stream
  int64_t layers = 0;    ///< L
  int64_t heads = 0;     ///< H, query heads
  int64_t kv_heads = 0;  ///< KV; query head i reads key head floor(i / (H / KV))
  int64_t head_dim = 0;  ///< hd
  int64_t ffn = 0;       ///< f, width of gate and up
  int64_t context = 0;   ///< longest sequence the model is meant for ("max_position_embeddings")
  double rope_theta = 10000;
  std::optional<RopeScaling> rope_scaling{};
  double norm_epsilon = 1e-5;
  bool tied = false;     ///< the head is the embedding
  bool qk_norm = false;  ///< heads of q and k are normalised before RoPE (head_norm_forward), as Qwen3's are

  bool operator==(const ModelConfig&) const = default;

  int64_t query_width() const { return heads * head_dim; }
  int64_t kv_width() const { return kv_heads * head_dim; }

  /// All parameters: L(2 d H hd + 2 d KV hd + 3 d f + 2d (+ 2 hd)) + d + V d (1 or 2).
  int64_t parameters() const {
    const int64_t gains = 2 * width + (qk_norm ? 2 * head_dim : 0);
    return layers * (2 * width * query_width() + 2 * width * kv_width() + 3 * width * ffn + gains) + width +
           vocabulary * width * (tied ? 1 : 2);
  }
  /// Parameters that are multiplied with every token: all but the embedding, the head included.
  int64_t matmul_parameters() const {
    return layers * (2 * width * query_width() + 2 * width * kv_width() + 3 * width * ffn) + vocabulary * width;
  }
  /// What the papers call non-embedding: without embedding and head, norms included.
  int64_t non_embedding_parameters() const { return parameters() - vocabulary * width * (tied ? 1 : 2); }

  /// Floating-point operations of forward and backward for a token of a sequence of `length`: 6 for each weight that is
  /// multiplied, and causal attention's 4 (forward) + 8 (backward) for each head, channel and each of the length / 2
  /// keys that a query sees on average.
  double flops_per_token(int64_t length) const {
    return 6.0 * static_cast<double>(matmul_parameters()) + 6.0 * static_cast<double>(layers * query_width() * length);
  }

  /// Throws Error{configuration} that names the dimension which is not positive or does not divide.
  void validate() const;
  /// This configuration, if it is valid.
  const ModelConfig& validated() const { return validate(), *this; }
};

}  // namespace nibble
