#include "trainer/evaluation.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "comm/collectives.hpp"
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

/// What the ranks found in their turns, in the order of the micro-batches.
std::vector<double> gather_turns(World& world, const std::vector<double>& mine) {
  const auto ranks = static_cast<size_t>(world.size()), turns = mine.size();
  const std::vector<int64_t> counts(ranks, std::ssize(mine));
  std::vector<double> by_rank(ranks * turns), in_order(ranks * turns);
  world.thread().run([&](Communicator& communicator) { gather_all(communicator, mine, counts, by_rank); });
  for (size_t rank = 0; rank < ranks; ++rank)
    for (size_t turn = 0; turn < turns; ++turn) in_order[turn * ranks + rank] = by_rank[rank * turns + turn];
  return in_order;
}

}  // namespace

Evaluation evaluate(Llama& model, const ParameterSet& weights, const Loader& loader, int64_t max_tokens, World& world,
                    const std::function<void(int64_t, int64_t)>& progress, int64_t step) {
  const int64_t sequence = loader.sequence(), sequences = model.tokens() / sequence;
  const int64_t all = loader.evaluation_windows();
  const int64_t windows = max_tokens == 0 ? all : std::min(all, (max_tokens + sequence - 1) / sequence);
  const int64_t micro_batches = (windows + sequences - 1) / sequences, ranks = world.size();
  std::vector<double> losses, tokens;  // of this rank's turns
  for (int64_t first = 0; first < micro_batches; first += ranks) {
    // A rank without a micro-batch in the last turn repeats the last one, for sharded weights are gathered by all.
    const int64_t mine = std::min(first + world.rank(), micro_batches - 1);
    Batch batch = loader.evaluation_batch(mine * sequences, std::min(sequences, windows - mine * sequences));
    // The model's shape is fixed: missing windows at the end are filled with tokens that do not count.
    const auto size = static_cast<size_t>(model.tokens());
    batch.inputs.resize(size, 0);
    batch.targets.resize(size, -1);
    batch.document_starts.resize(size, 0);
    losses.push_back(model.loss(weights, {batch.inputs, batch.targets, batch.document_starts}, step));
    tokens.push_back(static_cast<double>(batch.loss_tokens));
    if (progress) progress(std::min((first + ranks) * sequences, windows), windows);
  }
  const std::vector<double> loss_of = gather_turns(world, losses), tokens_of = gather_turns(world, tokens);
  Evaluation result;
  for (size_t i = 0; i < static_cast<size_t>(micro_batches); ++i) {
    result.loss_sum += loss_of[i];
    result.tokens += static_cast<int64_t>(tokens_of[i]);
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
