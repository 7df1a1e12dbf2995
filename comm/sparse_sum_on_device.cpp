#include <algorithm>
#include <cassert>
#include <cstring>

#include "comm/bucket_vector.hpp"
#include "comm/cuda/top_k.hpp"
#include "comm/reserved_memory.hpp"
#include "comm/sparse_sum.hpp"
#include "comm/square_sum.hpp"
#include "comm/wire_work.hpp"

namespace nibble {
namespace {

/// For the sums of one thread in turns.
struct SparseMemory {
  Buffer entries, working;      ///< of a device; what its selections work in
  PinnedMemory sent, received;  ///< on their way from and to it
};

constexpr size_t bytes_of_entries(int64_t count) { return static_cast<size_t>(count) * sizeof(SparseEntry); }

class SparseSumOnDevice final : public SparseSumBase {
 public:
  SparseSumOnDevice(const BucketPlace& place, const SparseSumOptions& options)
      : SparseSumBase(place, options),
        count_(options.selection.entries(place.elements())),
        memory_(place.scratch->shared<SparseMemory>("sparse sums", [] { return SparseMemory(); })) {
    // Sums of ranks that select alike have entries only while these take no more bytes than values, and at most those
    // of all.
    const size_t values = static_cast<size_t>(place.result_elements()) * sizeof(float);
    const size_t summed = sums_densely() ? 0 : std::min(values, bytes_of_entries(place.ranks() * count_));
    place.scratch->reserve(SumScratch::gathered);
    reserve(memory_->working, cuda::top_k_working_bytes(options.selection, place.elements()));
    reserve(memory_->entries, std::max(bytes_of_entries(count_), summed));
    reserve(memory_->sent, bytes_of_entries(count_));
    reserve(memory_->received, values);
    if (feedback_) rest_square_.emplace(place.elements(), place.memory);
  }

  void sum(Communicator& ranks, const Parts& values, int64_t step, std::span<float> own) override {
    Stream& stream = *ranks.stream();
    const WireWork work(ranks);
    select(stream, gathered(work, values, place_));
    if (feedback_) rest_square_->take(work, feedback_->rest());
    if (!own.empty()) write(work, stream, count_, own);
    stream.queue().copy(memory_->sent.first(bytes_of_entries(count_)).data(), entries(), bytes_of_entries(count_));
    ranks.wait();
    SparseStream mine = selected();
    const Pieces result = place_.goes == SumGoes::to_owner ? values[static_cast<size_t>(place_.rank)] : joined(values);
    if (sums_densely()) {
      const std::span<float> total = received<float>(place_.result_elements());
      write_total(ranks.host(), std::move(mine), step, total);
      work.unpack(std::as_bytes(total), result, 0);
    } else {
      put(ranks, total(ranks.host(), std::move(mine), step), result);
    }
  }

  double residual_square() const override { return feedback_ ? rest_square_->total() : 0; }

 private:
  SparseEntry* entries() const { return static_cast<SparseEntry*>(memory_->entries.data()); }

  /// The device's entries become what is selected of this rank's values, as they travel.
  void select(Stream& stream, std::span<const float> vector) {
    const Selection& selection = options_.selection;
    void* const working = memory_->working.data();
    if (feedback_) return feedback_->select(stream, vector.data(), selection, options_.wire, entries(), working);
    cuda::top_k(stream, {.gradient = vector.data(),
                         .length = std::ssize(vector),
                         .selection = selection,
                         .wire = options_.wire,
                         .entries = entries(),
                         .working = working});
  }

  /// What came of it to the host.
  SparseStream selected() const {
    std::vector<SparseEntry> all(static_cast<size_t>(count_));
    std::memcpy(all.data(), memory_->sent.first(bytes_of_entries(count_)).data(), bytes_of_entries(count_));
    return SparseStream(place_.elements(), std::move(all));
  }

  /// all = the vector of the first `count` of the device's entries.
  void write(const WireWork& work, Stream& stream, int64_t count, std::span<float> all) const {
    work.fill(all, 0);
    cuda::put_entries(stream, entries(), count, all.data());
  }

  /// Pinned memory, which the stream does not use any more.
  template <class T>
  std::span<T> received(int64_t count) const {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    assert(bytes <= memory_->received.bytes());
    return {reinterpret_cast<T*>(memory_->received.first(bytes).data()), static_cast<size_t>(count)};
  }

  void put(Communicator& ranks, const SparseStream& total, const Pieces& result) {
    const WireWork work(ranks);
    // A stream of another rank is whole with more entries than there is room for, too.
    const size_t room = std::min(memory_->received.bytes(), memory_->entries.bytes());
    if (total.dense() || bytes_of_entries(total.count()) > room) {
      const std::span<float> all = received<float>(total.length());
      total.write(all);
      return work.unpack(std::as_bytes(all), result, 0);
    }
    const std::span<SparseEntry> kept = received<SparseEntry>(total.count());
    std::ranges::copy(total.entries(), kept.begin());
    Stream& stream = *ranks.stream();
    stream.queue().copy(entries(), kept.data(), kept.size_bytes());
    const std::span<float> vector = run_for(result, [&](size_t elements) {
      return place_.scratch->take(SumScratch::gathered, static_cast<int64_t>(elements));  // nobody needs its values now
    });
    write(work, stream, total.count(), vector);
    scattered(work, vector, result);
  }

  const int64_t count_;  ///< of this rank's entries
  std::shared_ptr<SparseMemory> memory_;
  std::optional<SquareSum> rest_square_;
};

}  // namespace

BucketSumPointer make_sparse_sum_on_device(const BucketPlace& place, const SparseSumOptions& options) {
  return std::make_unique<SparseSumOnDevice>(place, options);
}

}  // namespace nibble
