#include "trainer/generation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "tensor/error.hpp"
#include "tensor/random.hpp"

namespace nibble {
namespace {

/// Collects bytes and lets whole characters through: a token may end inside one.
class Utf8Printer {
 public:
  explicit Utf8Printer(const std::function<void(std::string_view)>& print) : print_(print) {}

  void add(std::string_view bytes) {
    pending_ += bytes;
    while (true) {
      const size_t valid = std::min(find_invalid_utf8(pending_), pending_.size());
      if (valid > 0) print_(std::string_view(pending_).substr(0, valid));
      pending_.erase(0, valid);
      if (pending_.empty() || may_go_on()) return;
      replace_first();
    }
  }
  void finish() {
    while (!pending_.empty()) replace_first();
  }

 private:
  /// Whether what is left may be the beginning of a character.
  bool may_go_on() const {
    const auto lead = static_cast<unsigned char>(pending_[0]);
    const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc2 ? 2 : 1;
    return pending_.size() < length && std::all_of(pending_.begin() + 1, pending_.end(), [](char byte) {
             return (static_cast<unsigned char>(byte) & 0xc0) == 0x80;
           });
  }
  void replace_first() {
    print_("\xef\xbf\xbd");
    pending_.erase(0, 1);
  }

  const std::function<void(std::string_view)>& print_;
  std::string pending_;
};

}  // namespace

int32_t sample(std::span<const float> logits, const SamplingOptions& options, int64_t position) {
  if (!std::all_of(logits.begin(), logits.end(), [](float logit) { return std::isfinite(logit); }))
    throw Error({.kind = ErrorKind::numerics,
                 .what = "the model's logits are not finite",
                 .where = fmt::format("token {}", position),
                 .next = "the weights are damaged or the run diverged: choose an earlier checkpoint"});
  const auto best = std::max_element(logits.begin(), logits.end());
  if (options.temperature <= 0) return static_cast<int32_t>(best - logits.begin());
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  std::vector<double> weights;
  for (const int32_t id : order)
    weights.push_back(std::exp((logits[static_cast<size_t>(id)] - *best) / options.temperature));
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  size_t kept = 0;
  double mass = 0;
  while (kept < weights.size() && (kept == 0 || mass < options.top_p * total)) mass += weights[kept++];
  const RandomStream random(options.seed, Purpose::sampling);
  double target = random.uniform(static_cast<uint64_t>(position)) * mass;
  for (size_t i = 0; i + 1 < kept; ++i) {
    if (target < weights[i]) return order[i];
    target -= weights[i];
  }
  return order[kept - 1];
}

int64_t generate(Decoder& decoder, const Tokenizer& tokenizer, std::string_view prompt,
                 std::span<const int64_t> end_ids, const SamplingOptions& options,
                 const std::function<void(std::string_view)>& print) {
  std::vector<int32_t> ids;
  if (tokenizer.bos() >= 0) ids.push_back(tokenizer.bos());
  tokenizer.encode(prompt, ids);
  Utf8Printer printer(print);
  std::span<const int32_t> unread = ids;
  int64_t generated = 0;
  std::vector<int32_t> next(1);
  while (generated < options.tokens && decoder.position() + static_cast<int64_t>(unread.size()) <= decoder.capacity()) {
    const std::span<const float> logits = decoder.read(unread);
    next[0] = sample(logits, options, decoder.position());
    ++generated;
    if (std::find(end_ids.begin(), end_ids.end(), next[0]) != end_ids.end()) break;
    printer.add(tokenizer.token_text(next[0]));
    unread = next;
  }
  printer.finish();
  return generated;
}

}  // namespace nibble
