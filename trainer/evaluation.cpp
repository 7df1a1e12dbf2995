#include "trainer/evaluation.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "tensor/error.hpp"

namespace nibble {

double Evaluation::perplexity() const { return std::exp(loss()); }

std::optional<double> Evaluation::bits_per_byte() const {
  if (!bytes || *bytes <= 0) return std::nullopt;
  return loss_sum / (*bytes * std::numbers::ln2);
}

namespace {

/// UTF-8 bytes behind the first `tokens` tokens of the file.
double bytes_of_prefix(const TokenData& data, int64_t tokens) {
  const std::span<const int64_t> offsets = data.document_offsets();
  double bytes = 0;
  for (size_t d = 0; d + 1 < offsets.size() && offsets[d] < tokens; ++d) {
    const int64_t scored = std::min(tokens, offsets[d + 1]) - offsets[d];
    bytes += static_cast<double>(data.document_bytes()[d]) * static_cast<double>(scored) /
             static_cast<double>(offsets[d + 1] - offsets[d]);
  }
  return bytes;
}

}  // namespace

Evaluation evaluate(Llama& model, const ParameterSet& weights, const Loader& loader, int64_t max_tokens,
                    const std::function<void(int64_t, int64_t)>& progress) {
  const int64_t sequence = loader.sequence(), sequences = model.tokens() / sequence;
  const int64_t all = loader.evaluation_windows();
  const int64_t windows = max_tokens == 0 ? all : std::min(all, (max_tokens + sequence - 1) / sequence);
  Evaluation result;
  for (int64_t done = 0; done < windows;) {
    Batch batch = loader.evaluation_batch(done, std::min(sequences, windows - done));
    done += batch.sequences;
    // The model's shape is fixed: missing windows at the end are filled with tokens that do not count.
    const auto size = static_cast<size_t>(model.tokens());
    batch.inputs.resize(size, 0);
    batch.targets.resize(size, -1);
    batch.document_starts.resize(size, 0);
    result.loss_sum += model.loss(weights, {batch.inputs, batch.targets, batch.document_starts});
    result.tokens += batch.loss_tokens;
    if (progress) progress(done, windows);
  }
  if (result.tokens == 0)
    throw Error({.kind = ErrorKind::data,
                 .what = "nothing to evaluate: no token counts",
                 .where = loader.data().path(),
                 .next = "use a file with at least two tokens, and a loss mask that keeps some"});
  if (windows == all && loader.data().text_bytes()) result.bytes = static_cast<double>(*loader.data().text_bytes());
  else if (loader.packing() == Packing::stream && !loader.data().document_bytes().empty())
    result.bytes = bytes_of_prefix(loader.data(), windows * sequence + 1);
  return result;
}

}  // namespace nibble
