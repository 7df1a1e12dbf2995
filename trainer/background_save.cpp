#include "trainer/background_save.hpp"

#include <cassert>
#include <chrono>
#include <utility>
#include <vector>

#include "trainer/tensor_elements.hpp"

namespace nibble {
namespace {

/// Large enough for the threads' copies to be worth their start: 256 KiB of f32.
constexpr int64_t copy_grain = int64_t{1} << 16;

template <class T>
bool is_idle(const std::future<T>& future) {
  return !future.valid() || future.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

}  // namespace

BackgroundSave::BackgroundSave(const StateList& state, int rank, int ranks) : rank_(rank), ranks_(ranks) {
  std::vector<size_t> offsets;
  size_t bytes = 0;
  for (const StateList::Entry& entry : state.entries()) {
    offsets.push_back(bytes);
    const size_t size = bytes_of(entry.tensor.dtype, 1, share_of(entry, rank, ranks).count);
    bytes += (size + alignment - 1) / alignment * alignment;
  }
  memory_ = Buffer(bytes, "checkpoint snapshot");
  for (size_t i = 0; i < offsets.size(); ++i) {
    const StateList::Entry& entry = state.entries()[i];
    const Share share = share_of(entry, rank, ranks);
    const Tensor copy(entry.tensor.dtype, static_cast<char*>(memory_.data()) + offsets[i], 1, share.count);
    snapshot_.add_run(entry.name, copy, entry.rows, entry.cols, share.first);
  }
}

void BackgroundSave::start(Stream& stream, const StateList& state, const std::filesystem::path& folder) {
  assert(!under_way() && state.entries().size() == snapshot_.entries().size());
  for (size_t i = 0; i < state.entries().size(); ++i) {
    const StateList::Entry &from = state.entries()[i], &copy = snapshot_.entries()[i];
    assert(from.name == copy.name && share_of(from, rank_, ranks_).count == copy.tensor.cols);
    parallel_for(stream, copy.tensor.cols, copy_grain, [&](int64_t begin, int64_t end) {
      get_elements(from.tensor, copy.first - from.first + begin, copy.tensor.slice_cols(begin, end - begin));
    });
  }
  writing_ =
      std::async(std::launch::async, [this, folder] { return write_rank_file(folder, rank_, ranks_, snapshot_); });
}

RankFile BackgroundSave::take_file() {
  assert(writing_.valid());
  return writing_.get();
}

void BackgroundSave::commit(std::function<void()> work) {
  assert(!under_way());
  committing_ = std::async(std::launch::async, std::move(work));
}

void BackgroundSave::finish() {
  assert(committing_.valid());
  committing_.get();
}

bool BackgroundSave::idle() const { return is_idle(writing_) && is_idle(committing_); }

}  // namespace nibble
