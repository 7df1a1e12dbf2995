#include "trainer/logit_difference.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "model/attention.hpp"
#include "model/norm.hpp"
#include "model/rope.hpp"
#include "model/swiglu.hpp"
#include "tensor/gemm.hpp"
#include "tensor/random.hpp"
#include "trainer/memory.hpp"

namespace nibble {
namespace {

/// A model of one block and a single token, whose weights are a block's and the final norm's.
ModelConfig one_block(ModelConfig config) {
  config.layers = 1;
  config.vocabulary = 1;
  config.tied = true;
  return config;
}

/// The forward pass of a sequence, in fp32, where each call is given the weights that it needs.
class BlockwisePass {
 public:
  BlockwisePass(Stream& stream, const ModelConfig& config, int64_t tokens)
      : stream_(stream),
        config_(config),
        layout_(one_block(config)),
        rope_(stream, config, tokens),
        shape_{1, tokens, config.heads, config.kv_heads, config.head_dim},
        arena_("comparison of logits", [&](Arena& arena) {
          const auto take = [&](int64_t cols) { return arena.take(DType::f32, tokens, cols); };
          middle_ = take(config.width);
          normed_ = take(config.width);
          inverse_rms_ = arena.take(DType::f32, 1, tokens);
          qkv_ = take(config.query_width() + 2 * config.kv_width());
          attention_ = take(config.query_width());
          log_sum_exp_ = arena.take(DType::f32, config.heads, tokens);
          gate_up_ = take(2 * config.ffn);
          activation_ = take(config.ffn);
          attention_scratch_ = AttentionScratch(arena, shape_, DType::f32, stream, false);
        }) {}

  /// Of the block's weights and the final norm.
  const ParameterLayout& layout() const { return layout_; }

  /// residual[tokens, width] in front of a block becomes that behind it.
  void run_block(const ParameterSet& weights, const Tensor& residual) {
    norm(residual, weights.buffer(layout_.attention_norm(0)), normed_);
    gemm(stream_, normed_, Transpose::no, weights.buffer(layout_.qkv(0)), Transpose::yes, qkv_);
    if (layout_.has_qk_norm()) {
      const Tensor& gains = weights.buffer(layout_.qk_norm(0));
      head_norm_forward(stream_, gains.slice_rows(0, 1), epsilon(), qkv_.slice_cols(0, config_.query_width()), nullptr);
      head_norm_forward(stream_, gains.slice_rows(1, 1), epsilon(),
                        qkv_.slice_cols(config_.query_width(), config_.kv_width()), nullptr);
    }
    rope(stream_, rope_, config_.heads + config_.kv_heads, config_.head_dim, shape_.length, 0, RopeDirection::forward,
         qkv_);
    attention_forward(stream_, shape_, qkv_, {}, attention_scratch_, attention_, log_sum_exp_);
    gemm(stream_, attention_, Transpose::no, weights.buffer(layout_.output(0)), Transpose::yes, middle_, residual);
    norm(middle_, weights.buffer(layout_.ffn_norm(0)), normed_);
    gemm(stream_, normed_, Transpose::no, weights.buffer(layout_.gate_up(0)), Transpose::yes, gate_up_);
    swiglu_forward(stream_, gate_up_, activation_);
    gemm(stream_, activation_, Transpose::no, weights.buffer(layout_.down(0)), Transpose::yes, residual, middle_);
  }

  void norm(const Tensor& x, const Tensor& gain, const Tensor& y) {
    rms_norm_forward(stream_, x, gain, epsilon(), y, inverse_rms_);
  }

 private:
  float epsilon() const { return static_cast<float>(config_.norm_epsilon); }

  Stream& stream_;
  const ModelConfig config_;
  ParameterLayout layout_;
  RopeTable rope_;
  AttentionShape shape_;
  Tensor middle_, normed_, inverse_rms_, qkv_, attention_, log_sum_exp_, gate_up_, activation_;
  AttentionScratch attention_scratch_;
  Arena arena_;  // last: its layout fills the members above
};

std::vector<int32_t> random_tokens(const ModelConfig& config) {
  std::vector<int32_t> tokens(static_cast<size_t>(std::min(compared_tokens, config.context)));
  const RandomStream random(1, Purpose::sampling);
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<int32_t>(random.word(i) % static_cast<uint64_t>(config.vocabulary));
  return tokens;
}

/// ln sum exp of a row, in double.
double log_sum_exp(const float* row, int64_t count) {
  const double most = *std::max_element(row, row + count);
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += std::exp(row[i] - most);
  return most + std::log(sum);
}

LogitDifference difference_of(const Tensor& first, const Tensor& second) {
  LogitDifference result;
  double squares = 0;
  for (int64_t t = 0; t < first.rows; ++t) {
    const float *a = first.row<float>(t), *b = second.row<float>(t);
    const double lse_a = log_sum_exp(a, first.cols), lse_b = log_sum_exp(b, first.cols);
    double divergence = 0;
    for (int64_t i = 0; i < first.cols; ++i) {
      const double difference = double{a[i]} - b[i], log_p = a[i] - lse_a;
      result.largest = std::isnan(difference) ? difference : std::max(result.largest, std::abs(difference));
      squares += difference * difference;
      divergence += std::exp(log_p) * (log_p - (b[i] - lse_b));
    }
    // Rounding may leave less than nothing of a divergence that is nothing.
    result.divergence += std::max(divergence, 0.0) / static_cast<double>(first.rows);
  }
  result.rms = std::sqrt(squares / static_cast<double>(first.size()));
  return result;
}

}  // namespace

LogitDifference compare_logits(Stream& stream, WeightSource& source, WeightSource& exported,
                               const std::function<void(int64_t, int64_t)>& progress) {
  const ModelConfig& config = source.config();
  const std::vector<int32_t> ids = random_tokens(config);
  const int64_t tokens = std::ssize(ids);
  BlockwisePass pass(stream, config, tokens);
  ParameterSet weights(pass.layout(), DType::f32, DType::f32, true, "weights of a block");
  const size_t last = pass.layout().parameters().size() - 1, of_block = last - 1;
  struct Side {
    WeightSource& weights;
    OwnedTensor residual, logits;
  };
  const auto side = [&](WeightSource& given) -> Side {
    return {given, OwnedTensor(DType::f32, tokens, config.width, "comparison of logits"),
            OwnedTensor(DType::f32, tokens, config.vocabulary, "comparison of logits")};
  };
  Side sides[] = {side(source), side(exported)};
  require_held_memory();

  const int64_t matrices = 2 * static_cast<int64_t>(source.parameters());
  int64_t done = 0;
  const auto count = [&](size_t read) {
    done += static_cast<int64_t>(read);
    if (progress) progress(done, matrices);
  };
  for (Side& each : sides) {
    for (int64_t t = 0; t < tokens; ++t)
      each.weights.read_rows(0, ids[static_cast<size_t>(t)], each.residual.view().slice_rows(t, 1));
    count(1);
  }
  for (int64_t layer = 0; layer < config.layers; ++layer)
    for (Side& each : sides) {
      for (size_t i = 0; i < of_block; ++i)
        each.weights.read(1 + static_cast<size_t>(layer) * of_block + i, weights[1 + i]);
      pass.run_block(weights, each.residual);
      count(of_block);
    }
  const size_t final_norm = 1 + static_cast<size_t>(config.layers) * of_block, head = config.tied ? 0 : final_norm + 1;
  const int64_t chunk = std::min(config.vocabulary, 4 * rows_at_once(config.width));
  const OwnedTensor head_rows(DType::f32, chunk, config.width, "weights of a block");
  for (Side& each : sides) {
    each.weights.read(final_norm, weights[last]);
    pass.norm(each.residual, weights[last], each.residual);
    for (int64_t first = 0; first < config.vocabulary; first += chunk) {
      const Tensor rows = head_rows.view().slice_rows(0, std::min(chunk, config.vocabulary - first));
      each.weights.read_rows(head, first, rows);
      gemm(stream, each.residual, Transpose::no, rows, Transpose::yes, each.logits.view().slice_cols(first, rows.rows));
    }
    count(config.tied ? 1 : 2);
  }
  return difference_of(sides[0].logits, sides[1].logits);
}

}  // namespace nibble
