#include "comm/error_feedback.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

#include "comm/cpu/select_bucket.hpp"
#include "comm/cuda/top_k.hpp"
#include "comm/cut_value.hpp"
#include "comm/sparse_wire.hpp"

namespace nibble {
namespace {

[[gnu::always_inline]] inline void accumulate(const float* residual, const float* gradient, float* sum, int64_t n) {
  simd::for_each_group(n, [&](int64_t i, int64_t count) {
    simd::store_n(sum + i, simd::load_n(residual + i, count) + simd::load_n(gradient + i, count), count);
  });
}

/// The residual is read in the next step, after everything else.
[[gnu::always_inline]] inline void write_past_caches(const float* from, float* to, int64_t n) {
  simd::for_each_group(n, [&](int64_t i, int64_t count) {
    if (count == simd::lanes) simd::stream(to + i, simd::load(from + i));
    else simd::store_n(to + i, simd::load_n(from + i, count), count);
  });
}

}  // namespace

ErrorFeedback::ErrorFeedback(int64_t length, Place place) : length_(length) {
  check_indexable(length);
  residual_ = OwnedTensor(DType::f32, 1, length, "error feedback", place);
  pending_ = OwnedTensor(DType::f32, 1, length, "error feedback", place);
}

SparseStream ErrorFeedback::select(Stream& stream, std::span<const float> gradient, const Selection& selection,
                                   Wire wire) {
  assert(static_cast<int64_t>(gradient.size()) == length_);
  const float* const residual = residual_.view().as<float>();
  float* const pending = pending_.view().as<float>();
  pending_is_new_ = true;
  if (selection.of == Selection::Of::all) {
    parallel_for(stream, length_, simd::lanes, [&](int64_t begin, int64_t end) {
      accumulate(residual + begin, gradient.data() + begin, pending + begin, end - begin);
    });
    const SparseStream kept = top_k(stream, {pending, static_cast<size_t>(length_)}, selection.k);
    std::vector<SparseEntry> entries(kept.entries().begin(), kept.entries().end());
    for (SparseEntry& entry : entries) {
      const SentAndLeft both = cut(entry.value, wire);
      entry.value = both.sent;
      pending[entry.index] = both.left;
    }
    return SparseStream(length_, std::move(entries));
  }
  check_top_k(selection.k, bucket_elements);
  std::vector<SparseEntry> entries(static_cast<size_t>(entries_of_buckets(length_, selection.k)));
  parallel_for(stream, length_, bucket_elements, [&](int64_t begin, int64_t end) {
    BucketSelection bucket;
    alignas(64) float x[bucket_elements];
    SparseEntry* to = entries.data() + begin / bucket_elements * selection.k;
    for (int64_t first = begin; first < end; first += bucket_elements) {
      const int64_t n = std::min(bucket_elements, end - first);
      accumulate(residual + first, gradient.data() + first, x, n);
      bucket.select(x, n, selection.k, [&](int64_t i) {
        const SentAndLeft both = cut(x[i], wire);
        *to++ = {static_cast<uint32_t>(first + i), both.sent};
        x[i] = both.left;
      });
      write_past_caches(x, pending + first, n);
    }
    simd::finish_streaming();
  });
  return SparseStream(length_, std::move(entries));
}

void ErrorFeedback::select(Stream& stream, const float* gradient, const Selection& selection, Wire wire,
                           SparseEntry* entries, void* working) {
  check_selection(selection);
  pending_is_new_ = true;
  cuda::top_k(stream, {.gradient = gradient,
                       .length = length_,
                       .selection = selection,
                       .wire = wire,
                       .entries = entries,
                       .working = working,
                       .residual = residual_.view().on_device<float>(),
                       .rest = pending_.view().on_device<float>()});
}

void ErrorFeedback::commit() {
  if (pending_is_new_) std::swap(residual_, pending_);
  pending_is_new_ = false;
}

void ErrorFeedback::state(StateList& list, const std::string& name, int rank, int ranks) {
  list.add_addend(name, residual_.view(), rank, ranks);
}

}  // namespace nibble
