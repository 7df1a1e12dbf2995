#include "data/loader.hpp"

#include <algorithm>
#include <numeric>
#include <set>

#include "data/permutation.hpp"
#include "fmt/format.h"

namespace nibble {
namespace {

constexpr int32_t no_loss = -1;

}  // namespace

Loader::Loader(const TokenData& data, const LoaderOptions& options) : data_(data), options_(options) {
  if (options_.sequence <= 0)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "the sequence length is not positive",
                 .where = "data.sequence",
                 .seen = fmt::format("{}", options_.sequence),
                 .allowed = "at least 1"});
  if (options_.packing == Packing::documents) pack_documents();
  else windows_ = (data_.tokens() - 1) / options_.sequence;
  if (windows_ == 0)
    throw Error({.kind = ErrorKind::data,
                 .what = "the tokens do not fill one window",
                 .where = data_.path(),
                 .seen = fmt::format("{} tokens in {} documents", data_.tokens(), data_.documents()),
                 .allowed = options_.packing == Packing::documents
                                ? "a document of at least 2 tokens"
                                : fmt::format("at least {} tokens, sequence + 1", options_.sequence + 1),
                 .next = "use a shorter sequence, or more text"});
}

void Loader::pack_documents() {
  // A document of n tokens makes n - 1 predictions. Full windows first; then the rest by decreasing length, each into
  // the open window that it fills best (best-fit decreasing), which is deterministic and leaves little padding.
  const int64_t sequence = options_.sequence;
  const std::span<const int64_t> offsets = data_.document_offsets();
  std::vector<Piece> rest;
  std::vector<int64_t> windows_of_pieces;
  for (size_t document = 0; document + 1 < offsets.size(); ++document) {
    int64_t first = offsets[document];
    const int64_t last = offsets[document + 1] - 1;
    cut_documents_ += last - first > sequence;
    for (; last - first >= sequence; first += sequence) {
      pieces_.push_back({first, static_cast<int32_t>(sequence), 0});
      windows_of_pieces.push_back(windows_++);
    }
    if (first < last) rest.push_back({first, static_cast<int32_t>(last - first), 0});
  }
  std::stable_sort(rest.begin(), rest.end(), [](const Piece& a, const Piece& b) { return a.length > b.length; });

  std::vector<std::vector<int64_t>> open(static_cast<size_t>(sequence) + 1);  // windows by free positions
  std::set<int64_t> free_positions;                                           // whose list is not empty
  for (Piece& piece : rest) {
    const auto best = free_positions.lower_bound(piece.length);
    int64_t window, free;
    if (best == free_positions.end()) {
      window = windows_++;
      free = sequence;
    } else {
      free = *best;
      std::vector<int64_t>& candidates = open[static_cast<size_t>(free)];
      window = candidates.back();
      candidates.pop_back();
      if (candidates.empty()) free_positions.erase(best);
    }
    piece.position = static_cast<int32_t>(sequence - free);
    free -= piece.length;
    if (free > 0) {
      open[static_cast<size_t>(free)].push_back(window);
      free_positions.insert(free);
    }
    pieces_.push_back(piece);
    windows_of_pieces.push_back(window);
  }

  // Group the pieces by window; within one they keep their order, which is that of their positions.
  first_pieces_.assign(static_cast<size_t>(windows_) + 1, 0);
  for (int64_t window : windows_of_pieces) ++first_pieces_[static_cast<size_t>(window) + 1];
  std::partial_sum(first_pieces_.begin(), first_pieces_.end(), first_pieces_.begin());
  std::vector<int64_t> next(first_pieces_.begin(), first_pieces_.end() - 1);
  std::vector<Piece> grouped(pieces_.size());
  for (size_t i = 0; i < pieces_.size(); ++i)
    grouped[static_cast<size_t>(next[static_cast<size_t>(windows_of_pieces[i])]++)] = pieces_[i];
  pieces_ = std::move(grouped);
}

int64_t Loader::dropped_tokens() const {
  return options_.packing == Packing::stream ? data_.tokens() - 1 - windows_ * options_.sequence : 0;
}

int64_t Loader::padding_tokens() const {
  if (options_.packing == Packing::stream) return 0;
  int64_t used = 0;
  for (const Piece& piece : pieces_) used += piece.length;
  return windows_ * options_.sequence - used;
}

std::string Loader::describe() const {
  const std::string windows =
      fmt::format("{} windows of {} tokens in an epoch ({} tokens)", windows_, options_.sequence, tokens_per_epoch());
  if (options_.packing == Packing::documents)
    return fmt::format(
        "{}, {} documents side by side, {} positions padded{}", windows, data_.documents(), padding_tokens(),
        cut_documents_ > 0 ? fmt::format(", {} documents longer than the sequence were cut", cut_documents_) : "");
  return fmt::format("{}, {} tokens at the end dropped", windows, dropped_tokens());
}

int64_t Loader::window_of_sample(int64_t sample) const {
  assert(sample >= 0);
  const int64_t epoch = sample / windows_;
  const Permutation order(static_cast<uint64_t>(windows_), options_.seed, static_cast<uint32_t>(epoch));
  return static_cast<int64_t>(order(static_cast<uint64_t>(sample % windows_)));
}

Batch Loader::batch(int64_t first_sample, int64_t count) const {
  std::vector<int64_t> windows;
  for (int64_t sample = first_sample; sample < first_sample + count; ++sample)
    windows.push_back(window_of_sample(sample));
  return fill(windows);
}

int64_t Loader::evaluation_windows(int64_t max_tokens) const {
  const int64_t sequence = options_.sequence;
  const int64_t all =
      options_.packing == Packing::documents ? windows_ : (data_.tokens() - 1 + sequence - 1) / sequence;
  return max_tokens == 0 ? all : std::min(all, (max_tokens + sequence - 1) / sequence);
}

std::optional<double> Loader::evaluation_bytes(int64_t windows) const {
  if (windows == evaluation_windows() && data_.text_bytes()) return static_cast<double>(*data_.text_bytes());
  if (options_.packing == Packing::documents || data_.document_bytes().empty()) return std::nullopt;
  const int64_t tokens = windows * options_.sequence + 1;
  const std::span<const int64_t> offsets = data_.document_offsets();
  double bytes = 0;
  for (size_t d = 0; d + 1 < offsets.size() && offsets[d] < tokens; ++d) {
    const int64_t scored = std::min(tokens, offsets[d + 1]) - offsets[d];
    bytes += static_cast<double>(data_.document_bytes()[d]) * static_cast<double>(scored) /
             static_cast<double>(offsets[d + 1] - offsets[d]);
  }
  return bytes;
}

Batch Loader::evaluation_batch(int64_t first, int64_t count) const {
  std::vector<int64_t> windows;
  for (int64_t window = first; window < std::min(first + count, evaluation_windows()); ++window)
    windows.push_back(window);
  return fill(windows);
}

Batch Loader::fill(const std::vector<int64_t>& windows) const {
  Batch batch;
  batch.sequences = static_cast<int64_t>(windows.size());
  batch.length = options_.sequence;
  const auto size = static_cast<size_t>(batch.sequences * batch.length);
  batch.inputs.assign(size, data_.tokenizer().padding());
  batch.targets.assign(size, no_loss);
  batch.document_starts.assign(size, 0);
  for (int64_t row = 0; row < batch.sequences; ++row) {
    const int64_t window = windows[static_cast<size_t>(row)];
    if (options_.packing == Packing::documents) fill_documents(window, row, batch);
    else fill_stream(window, row, batch);
  }
  batch.loss_tokens = static_cast<int64_t>(size) - std::ranges::count(batch.targets, no_loss);
  return batch;
}

void Loader::fill_run(int64_t first_token, int64_t length, int64_t at, Batch& batch) const {
  const auto place = static_cast<size_t>(at), count = static_cast<size_t>(length);
  data_.copy(first_token, std::span(batch.inputs).subspan(place, count));
  data_.copy(first_token + 1, std::span(batch.targets).subspan(place, count));
  const std::span<const uint8_t> mask = data_.loss_mask();
  if (mask.empty()) return;
  for (size_t i = 0; i < count; ++i)
    if (mask[static_cast<size_t>(first_token) + 1 + i] == 0) batch.targets[place + i] = no_loss;
}

void Loader::fill_stream(int64_t window, int64_t row, Batch& batch) const {
  const int64_t sequence = options_.sequence, begin = row * sequence, first = window * sequence;
  const int64_t length = std::min(sequence, data_.tokens() - 1 - first);
  fill_run(first, length, begin, batch);
  if (!options_.mask_documents) return;
  const std::span<const int64_t> offsets = data_.document_offsets();
  auto next_document = std::upper_bound(offsets.begin(), offsets.end(), first);
  int64_t start = 0;
  for (int64_t position = 0; position < length; ++position) {
    if (first + position == *next_document) {
      start = position;
      ++next_document;
    }
    batch.document_starts[static_cast<size_t>(begin + position)] = static_cast<int32_t>(start);
    if (first + position + 1 == *next_document) batch.targets[static_cast<size_t>(begin + position)] = no_loss;
  }
  std::fill_n(batch.document_starts.begin() + begin + length, sequence - length, static_cast<int32_t>(length));
}

void Loader::fill_documents(int64_t window, int64_t row, Batch& batch) const {
  const int64_t begin = row * options_.sequence;
  int64_t used = 0;
  for (int64_t i = first_pieces_[static_cast<size_t>(window)]; i < first_pieces_[static_cast<size_t>(window) + 1];
       ++i) {
    const Piece& piece = pieces_[static_cast<size_t>(i)];
    fill_run(piece.first_token, piece.length, begin + piece.position, batch);
    std::fill_n(batch.document_starts.begin() + begin + piece.position, piece.length, piece.position);
    used = piece.position + piece.length;
  }
  std::fill_n(batch.document_starts.begin() + begin + used, options_.sequence - used, static_cast<int32_t>(used));
}

}  // namespace nibble
