#include "data/synthetic_windows.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <span>

#include "tensor/error.hpp"

namespace nibble {

SyntheticWindows::SyntheticWindows(const SyntheticOptions& language, int64_t sequence, uint64_t seed)
    : language_(language), sequence_(sequence), seed_(seed) {
  if (sequence_ <= 0)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "the sequence length is not positive",
                 .where = "data.sequence",
                 .seen = fmt::format("{}", sequence_),
                 .allowed = "at least 1"});
}

std::string SyntheticWindows::describe() const {
  return fmt::format("{}; endless, windows of {} tokens; entropy {:.6f} nats per token, {:.4f} by frequencies alone",
                     language_.describe(), sequence_, language_.entropy(), language_.frequency_entropy());
}

Batch SyntheticWindows::batch(int64_t first_sample, int64_t count) const {
  return draw(Use::training, first_sample, count);
}

int64_t SyntheticWindows::evaluation_windows(int64_t max_tokens) const {
  const int64_t tokens = max_tokens == 0 ? default_evaluation_tokens : max_tokens;
  return (tokens + sequence_ - 1) / sequence_;
}

Batch SyntheticWindows::evaluation_batch(int64_t first, int64_t count) const {
  Batch batch = draw(Use::evaluation, first, count);
  double loss = 0;
  std::vector<int32_t> window(static_cast<size_t>(sequence_) + 1);
  for (int64_t row = 0; row < count; ++row) {
    const auto begin = row * sequence_;
    std::copy_n(batch.inputs.begin() + begin, sequence_, window.begin());
    window.back() = batch.targets[static_cast<size_t>(begin + sequence_ - 1)];
    for (size_t i = 1; i < window.size(); ++i) loss -= language_.log_probability(std::span(window).first(i), window[i]);
  }
  batch.source_loss = loss;
  return batch;
}

Batch SyntheticWindows::draw(Use use, int64_t first, int64_t count) const {
  Batch batch;
  batch.sequences = count;
  batch.length = sequence_;
  const auto size = static_cast<size_t>(count * sequence_);
  batch.inputs.resize(size);
  batch.targets.resize(size);
  batch.document_starts.assign(size, 0);
  batch.loss_tokens = static_cast<int64_t>(size);
  std::vector<int32_t> window(static_cast<size_t>(sequence_) + 1);
  for (int64_t row = 0; row < count; ++row) {
    // The lowest bit keeps windows to train on and others apart where their seeds are the same.
    const uint64_t stream = static_cast<uint64_t>(first + row) << 1 | (use == Use::evaluation ? 1 : 0);
    const RandomStream random(use == Use::training ? seed_ : language_.options().seed, Purpose::sampling,
                              static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32));
    for (size_t i = 0; i < window.size(); ++i) window[i] = language_.next(std::span(window).first(i), random.block(i));
    std::copy_n(window.begin(), sequence_, batch.inputs.begin() + row * sequence_);
    std::copy_n(window.begin() + 1, sequence_, batch.targets.begin() + row * sequence_);
  }
  return batch;
}

}  // namespace nibble
