#include "trainer/evaluation.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "comm/collectives.hpp"
#include "tensor/error.hpp"

namespace nibble {

double Evaluation::perplexity() const { return std::exp(loss()); }

std::optional<double> Evaluation::gap() const {
  if (!source_loss_sum) return std::nullopt;
  return (loss_sum - *source_loss_sum) / static_cast<double>(tokens);
}

std::optional<double> Evaluation::bits_per_byte() const {
  if (!bytes || *bytes <= 0) return std::nullopt;
  return loss_sum / (*bytes * std::numbers::ln2);
}

namespace {

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

Evaluation evaluate(Llama& model, const ParameterSet& weights, const WindowSource& source, int64_t max_tokens,
                    World& world, const std::function<void(int64_t, int64_t)>& progress, int64_t step) {
  const int64_t sequence = source.sequence(), sequences = model.tokens() / sequence;
  const int64_t windows = source.evaluation_windows(max_tokens);
  const int64_t micro_batches = (windows + sequences - 1) / sequences, ranks = world.size();
  std::vector<double> losses, tokens, source_losses;  // of this rank's turns
  bool source_knows = true;
  for (int64_t first = 0; first < micro_batches; first += ranks) {
    // A rank without a micro-batch in the last turn repeats the last one, for sharded weights are gathered by all.
    const int64_t mine = std::min(first + world.rank(), micro_batches - 1);
    Batch batch = source.evaluation_batch(mine * sequences, std::min(sequences, windows - mine * sequences));
    // The model's shape is fixed: missing windows at the end are filled with tokens that do not count.
    const auto size = static_cast<size_t>(model.tokens());
    batch.inputs.resize(size, 0);
    batch.targets.resize(size, -1);
    batch.document_starts.resize(size, 0);
    losses.push_back(model.loss(weights, {batch.inputs, batch.targets, batch.document_starts}, step));
    tokens.push_back(static_cast<double>(batch.loss_tokens));
    source_losses.push_back(batch.source_loss.value_or(0));
    source_knows = source_knows && batch.source_loss;
    if (progress) progress(std::min((first + ranks) * sequences, windows), windows);
  }
  const std::vector<double> loss_of = gather_turns(world, losses), tokens_of = gather_turns(world, tokens),
                            source_loss_of = gather_turns(world, source_losses);
  Evaluation result;
  if (source_knows) result.source_loss_sum = 0;
  for (size_t i = 0; i < static_cast<size_t>(micro_batches); ++i) {
    result.loss_sum += loss_of[i];
    result.tokens += static_cast<int64_t>(tokens_of[i]);
    if (source_knows) *result.source_loss_sum += source_loss_of[i];
  }
  if (result.tokens == 0)
    throw Error({.kind = ErrorKind::data,
                 .what = "nothing to evaluate: no token counts",
                 .where = source.name(),
                 .next = "use a file with at least two tokens, and a loss mask that keeps some"});
  result.bytes = source.evaluation_bytes(windows);
  return result;
}

}  // namespace nibble
