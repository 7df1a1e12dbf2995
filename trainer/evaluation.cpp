#include "trainer/evaluation.hpp"

#include <cmath>
#include <numbers>

#include "tensor/error.hpp"

namespace nibble {

double Evaluation::perplexity() const { return std::exp(loss()); }

std::optional<double> Evaluation::bits_per_byte() const {
  if (!bytes || *bytes <= 0) return std::nullopt;
  return loss_sum / (*bytes * std::numbers::ln2);
}

Evaluation evaluate(Llama& model, const ParameterSet& weights, const Loader& loader, int64_t max_tokens,
                    const std::function<void(int64_t, int64_t)>& progress) {
  const int64_t windows = loader.evaluation_windows(), sequences = model.tokens() / loader.sequence();
  Evaluation result;
  int64_t done = 0;
  while (done < windows && (max_tokens == 0 || result.tokens < max_tokens)) {
    Batch batch = loader.evaluation_batch(done, sequences);
    done += batch.sequences;
    // The model's shape is fixed: missing windows at the end are filled with tokens that do not count.
    const auto size = static_cast<size_t>(model.tokens());
    batch.inputs.resize(size, 0);
    batch.targets.resize(size, -1);
    if (!batch.document_starts.empty()) batch.document_starts.resize(size, 0);
    result.loss_sum += model.loss(weights, {batch.inputs, batch.targets, batch.document_starts});
    result.tokens += batch.loss_tokens;
    if (progress) progress(done, windows);
  }
  if (result.tokens == 0)
    throw Error({.kind = ErrorKind::data,
                 .what = "nothing to evaluate: no token counts",
                 .where = loader.data().path(),
                 .next = "use a file with at least two tokens, and a loss mask that keeps some"});
  if (loader.data().text_bytes())
    result.bytes = static_cast<double>(*loader.data().text_bytes()) * static_cast<double>(done) / static_cast<double>(windows);
  return result;
}

}  // namespace nibble
