#include "trainer/qk_clip.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "optim/kernels.hpp"
#include "tensor/error.hpp"

namespace nibble {

std::vector<float> qk_clip_factors(std::span<const float> max_logits, int64_t kv_heads, double threshold) {
  const auto heads = std::ssize(max_logits), group = heads / kv_heads;
  const auto gamma = [&](int64_t head) {
    const double logit = max_logits[static_cast<size_t>(head)];
    return logit > threshold ? threshold / logit : 1.0;
  };
  std::vector<float> of_queries, of_keys;
  for (int64_t first = 0; first < heads; first += group) {
    double least = 1;
    for (int64_t head = first; head < first + group; ++head) least = std::min(least, gamma(head));
    const double key = std::sqrt(least);
    of_keys.push_back(static_cast<float>(key));
    for (int64_t head = first; head < first + group; ++head)
      of_queries.push_back(static_cast<float>(gamma(head) / key));
  }
  of_queries.insert(of_queries.end(), of_keys.begin(), of_keys.end());
  return of_queries;
}

void require_clippable(bool qk_norm, double threshold) {
  if (threshold > 0 && qk_norm)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "QK-clip scales weights whose scale QK-norm takes out again",
                 .where = "optimizer.qk_clip, model.qk_norm",
                 .seen = fmt::format("optimizer.qk_clip: {}, a model with QK-norm", threshold),
                 .allowed = "one of the two",
                 .next = "set optimizer.qk_clip to 0: QK-norm bounds the logits"});
}

QkClip::QkClip(Stream& stream, const Llama& model, const ShardedWeights& weights, double threshold)
    : stream_(stream), model_(model), weights_(weights), threshold_(threshold) {
  require_clippable(model.config().qk_norm, threshold);
}

int64_t QkClip::apply(std::span<const float> max_logits) {
  if (threshold_ == 0) return 0;
  const auto above = [this](float logit) { return logit > threshold_; };
  const auto heads = static_cast<size_t>(model_.config().heads);
  for (const OptimizedParameter& parameter : weights_.parameters()) {
    const int layer = parameter.info->layer;
    if (layer < 0 || parameter.info->buffer != model_.layout().qkv(layer)) continue;
    const std::span<const float> of_layer = max_logits.subspan(static_cast<size_t>(layer) * heads, heads);
    if (std::ranges::any_of(of_layer, above))
      scale(parameter, qk_clip_factors(of_layer, model_.config().kv_heads, threshold_));
  }
  return std::ranges::count_if(max_logits, above);
}

void QkClip::scale(const OptimizedParameter& parameter, std::span<const float> factors) {
  const ParameterInfo& info = *parameter.info;
  const int64_t cols = info.cols, head_dim = model_.config().head_dim;
  const int64_t rows = std::min(info.rows, std::ssize(factors) * head_dim - info.first_row);  // what follows are values
  const int64_t begin = parameter.first, end = std::min(begin + parameter.master.size(), rows * cols);
  const Tensor run = parameter.master.packed_as(1, parameter.master.size());
  for (int64_t at = begin; at < end;) {
    // Whole rows, or what the run has of one.
    const int64_t row = at / cols, col = at % cols, left = end - at;
    const int64_t count = col == 0 ? std::max<int64_t>(left / cols, 1) : 1, part = std::min(cols - col, left);
    std::vector<float> of_rows;
    for (int64_t i = row; i < row + count; ++i)
      of_rows.push_back(factors[static_cast<size_t>((info.first_row + i) / head_dim)]);
    scale_rows(stream_, run.run(at - begin, count * part).packed_as(count, part), of_rows);
    at += count * part;
  }
  refresh_working_copies(stream_, {&parameter, 1});
}

}  // namespace nibble
