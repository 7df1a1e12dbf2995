#include "trainer/shard_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "comm/lanes.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

void require_division(int ranks, int64_t micro_batches, int64_t lanes) {
  const auto refuse = [&](const char* what, const char* where, int64_t seen, std::string allowed, std::string next) {
    throw Error({.kind = ErrorKind::configuration,
                 .what = what,
                 .where = where,
                 .seen = fmt::format("{} for {} ranks", seen, ranks),
                 .allowed = std::move(allowed),
                 .next = std::move(next)});
  };
  if (!ranks_share_lanes(ranks, lanes))
    refuse("the ranks do not divide the lanes", "batch.lanes", lanes,
           fmt::format("{0}, or {0} times a power of two: then each rank has a subtree of the sum", ranks),
           "start fewer ranks; a new run can have other lanes, which are part of its identity");
  if (micro_batches % ranks != 0)
    refuse("the ranks do not divide the micro-batches of a step", "batch.tokens / (batch.micro x data.sequence)",
           micro_batches, fmt::format("a multiple of {}", ranks),
           "start fewer ranks; a new run can have a larger batch.tokens or a smaller batch.micro");
}

size_t index(int i) { return static_cast<size_t>(i); }

}  // namespace

ShardPlan::ShardPlan(const ParameterLayout& layout, Shard shard, int rank, int ranks, int64_t micro_batches,
                     int64_t lanes, CodeBits code_bits)
    : shard_(shard),
      rank_(rank),
      micro_batches_(micro_batches),
      lanes_(lanes),
      bucket_of_(layout.buffers().size()),
      completes_(layout.buffers().size()),
      of_unit_(index(layout.units())),
      code_bits_(shard == Shard::parameters ? std::move(code_bits) : CodeBits()),
      partition_({}, {}, ranks) {
  require_division(ranks, micro_batches, lanes);
  std::vector<int64_t> sizes, unsplit;
  std::vector<std::vector<int>> parameters_of(layout.buffers().size()), buckets;
  for (const ParameterInfo& info : layout.parameters()) {
    parameters_of[index(info.buffer)].push_back(static_cast<int>(sizes.size()));
    sizes.push_back(info.size());
    cols_.push_back(info.cols);
    unsplit.push_back(this->code_bits(info.buffer) > 0 ? info.cols : 1);
  }
  // Large enough that the latency of P - 1 messages is small beside the time of their bytes, small enough that a
  // block's first matrices travel while its others are computed.
  constexpr int64_t bucket_elements = (int64_t{4} << 20) / int64_t{sizeof(float)};
  int64_t elements = 0;
  const std::vector<int> order = layout.backward_order();
  for (size_t i = 0; i < order.size(); ++i) {
    const int buffer = order[i], unit = layout.unit_of(buffer);
    if (elements == 0) {
      of_unit_[index(unit)].push_back(static_cast<int>(buckets.size()));
      buckets.emplace_back();
    }
    const BufferInfo& info = layout.buffers()[index(buffer)];
    elements += info.rows * info.cols;
    bucket_of_[index(buffer)] = static_cast<int>(buckets.size()) - 1;
    buckets.back().insert(buckets.back().end(), parameters_of[index(buffer)].begin(),
                          parameters_of[index(buffer)].end());
    const bool ends_unit = i + 1 == order.size() || layout.unit_of(order[i + 1]) != unit;
    if (ends_unit || elements >= bucket_elements) {
      completes_[index(buffer)] = true;
      elements = 0;
    }
  }
  partition_ = Partition(sizes, buckets, ranks, unsplit);
}

int64_t ShardPlan::micro_batch(int rank, int64_t turn, int64_t batches) const {
  return shard_ >= Shard::gradients ? turn * ranks() + rank : rank * turns() * batches + turn;
}

Parts ShardPlan::parts(int bucket, const ParameterSet& set) const {
  Parts parts(index(ranks()));
  for (int rank = 0; rank < ranks(); ++rank)
    for (const Run& run : partition_.runs(bucket, rank)) {
      const Tensor& matrix = set[index(run.tensor)];
      const bool codes = matrix.dtype == DType::u8;  // then runs are whole rows, which have other lengths in bytes
      const int64_t row = codes ? cols_[index(run.tensor)] : 1, stored = codes ? matrix.cols : 1;
      append_pieces(parts[index(rank)], matrix, run.first / row * stored, run.count / row * stored);
    }
  return parts;
}

Parts ShardPlan::unit_parts(int unit, const ParameterSet& set) const {
  Parts all(index(ranks()));
  for (const int bucket : buckets_of_unit(unit)) {
    const Parts some = parts(bucket, set);
    for (size_t rank = 0; rank < some.size(); ++rank)
      for (const std::span<std::byte> piece : some[rank]) append(all[rank], piece);
  }
  return all;
}

void append_pieces(Pieces& pieces, const Tensor& matrix, int64_t first, int64_t count) {
  const int64_t element = static_cast<int64_t>(size_of(matrix.dtype));
  auto* const data = static_cast<std::byte*>(matrix.data);
  while (count > 0) {
    const int64_t row = matrix.contiguous() ? 0 : first / matrix.cols, column = first - row * matrix.cols;
    const int64_t here = matrix.contiguous() ? count : std::min(count, matrix.cols - column);
    append(pieces, {data + (row * matrix.stride + column) * element, static_cast<size_t>(here * element)});
    first += here;
    count -= here;
  }
}

}  // namespace nibble
