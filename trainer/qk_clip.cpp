#include "trainer/qk_clip.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

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
  const int64_t cols = parameter.info->cols, begin = parameter.first, end = begin + parameter.master.size();
  float* const run = parameter.master.as<float>();
  const int64_t first_row = begin / cols, rows = (end + cols - 1) / cols - first_row;
  parallel_for(stream_, rows, 16, [&](int64_t first, int64_t last) {
    for (int64_t row = first_row + first; row < first_row + last; ++row) {
      const auto head = static_cast<size_t>((parameter.info->first_row + row) / model_.config().head_dim);
      if (head >= factors.size()) return;  // rows of values
      for (int64_t i = std::max(row * cols, begin); i < std::min((row + 1) * cols, end); ++i)
        run[i - begin] *= factors[head];
    }
  });
  refresh_working_copies(stream_, {&parameter, 1});
}

}  // namespace nibble
