#include "comm/sparse_sum.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "comm/bucket_vector.hpp"
#include "comm/coded_blocks.hpp"
#include "comm/square_sum.hpp"
#include "comm/stream_exchange.hpp"

namespace nibble {

SparseSumBase::SparseSumBase(const BucketPlace& place, const SparseSumOptions& options)
    : place_(place), options_(options) {
  check_indexable(place.elements());
  check_top_k(options.selection.k, options.selection.of == Selection::Of::buckets
                                       ? bucket_elements
                                       : std::max<int64_t>(place.elements(), 1));
  if (options.error_feedback) feedback_.emplace(place.elements(), place.memory);
}

std::string SparseSumBase::description() const {
  const bool of_buckets = options_.selection.of == Selection::Of::buckets;
  return fmt::format("top {} of {}, {}{}{}{}", options_.selection.k, of_buckets ? bucket_elements : place_.elements(),
                     place_.goes == SumGoes::to_owner ? "to owners" : name(options_.algorithm),
                     options_.wire == Wire::bf16 ? ", bf16" : "",
                     options_.codec ? fmt::format(", sums in {}", options_.codec->name) : "",
                     feedback_ ? ", error feedback" : "");
}

SparseStream SparseSumBase::total(Communicator& hosts, SparseStream mine, int64_t step) const {
  if (place_.goes == SumGoes::to_owner) {
    std::vector<int64_t> begins;
    for (int rank = 0; rank <= place_.ranks(); ++rank) begins.push_back(place_.part_begin(rank));
    return sparse_reduce_scatter(hosts, mine, begins, options_.wire, label(step));
  }
  return sparse_allreduce(
      hosts, std::move(mine),
      {.algorithm = options_.algorithm, .contributions = options_.wire, .sums = options_.wire, .label = label(step)});
}

void SparseSumBase::write_total(Communicator& hosts, SparseStream mine, int64_t step, std::span<float> result) const {
  if (!sums_densely()) return total(hosts, std::move(mine), step).write(result);
  std::optional<CodedBlocks> codec;
  if (options_.codec) codec.emplace(*options_.codec, place_.codes(step).of_rank(0).of_sum(), place_.isa);
  sparse_allreduce(hosts, std::move(mine),
                   {.algorithm = options_.algorithm,
                    .contributions = options_.wire,
                    .sums = options_.wire,
                    .codec = codec ? &*codec : nullptr,
                    .label = label(step)},
                   result);
}

namespace {

class SparseSum final : public SparseSumBase {
 public:
  SparseSum(const BucketPlace& place, const SparseSumOptions& options) : SparseSumBase(place, options) {
    place.scratch->reserve(SumScratch::gathered);
    place.scratch->reserve(SumScratch::result);
  }

  void sum(Communicator& ranks, const Parts& values, int64_t step, std::span<float> own) override {
    if (!stream_) stream_.emplace(1);
    SparseStream mine = select(gathered(values, place_));
    if (!own.empty()) mine.write(own);
    const bool to_owner = place_.goes == SumGoes::to_owner;
    const Parts here = to_owner ? Parts{values[static_cast<size_t>(place_.rank)]} : values;
    const std::span<float> result = run_for(joined(here), [&](size_t elements) {
      return place_.scratch->take(SumScratch::result, static_cast<int64_t>(elements));
    });
    write_total(ranks, std::move(mine), step, result);
    put_result(result, values, place_);
  }

  double residual_square() const override { return feedback_ ? square_sum(feedback_->rest()) : 0; }

 private:
  SparseStream select(std::span<const float> vector) {
    const Selection& selection = options_.selection;
    if (feedback_) return feedback_->select(*stream_, vector, selection, options_.wire);
    return as_received(selection.of == Selection::Of::all
                           ? top_k(*stream_, vector, selection.k)
                           : top_k_of_buckets(*stream_, vector, static_cast<int>(selection.k)),
                       options_.wire);
  }

  std::optional<Stream> stream_;  ///< made by the thread that sums
};

}  // namespace

BucketSumPointer make_sparse_sum(const BucketPlace& place, const SparseSumOptions& options) {
  if (place.memory == Place::device) return make_sparse_sum_on_device(place, options);
  return std::make_unique<SparseSum>(place, options);
}

}  // namespace nibble
