#include "optim/whole_matrices.hpp"

#include <algorithm>
#include <cassert>
#include <numeric>
#include <utility>

#include "tensor/convert.hpp"
#include "tensor/profile.hpp"

namespace nibble {
namespace {

size_t index(int i) { return static_cast<size_t>(i); }

std::span<std::byte> bytes_of(const Tensor& packed, int64_t first, int64_t count) {
  const Tensor part = packed.slice_cols(first, count);
  return {static_cast<std::byte*>(part.data), part.bytes()};
}

}  // namespace

std::vector<std::vector<int>> matrix_shares(std::span<const double> work, int ranks) {
  std::vector<int> order(work.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return work[index(a)] > work[index(b)]; });
  std::vector<double> load(index(ranks));
  std::vector<std::vector<int>> shares(index(ranks));
  for (const int matrix : order) {
    const auto rank = static_cast<size_t>(std::min_element(load.begin(), load.end()) - load.begin());
    load[rank] += work[index(matrix)];
    shares[rank].push_back(matrix);
  }
  return shares;
}

std::vector<MatrixWave> matrix_waves(const std::vector<std::vector<int>>& shares, std::span<const int64_t> elements) {
  const int64_t most = wave_elements / std::ssize(shares);
  std::vector<MatrixWave> waves;
  for (size_t rank = 0; rank < shares.size(); ++rank) {
    size_t wave = 0;
    int64_t filled = 0;
    for (const int matrix : shares[rank]) {
      const int64_t size = elements[index(matrix)];
      if (filled > 0 && filled + size > most) {
        ++wave;
        filled = 0;
      }
      filled += size;
      if (wave == waves.size()) waves.emplace_back(shares.size());
      waves[wave][rank].push_back(matrix);
    }
  }
  return waves;
}

std::vector<double> work_of(std::span<const OptimizedParameter> matrices,
                            const std::function<double(const ParameterInfo&)>& work) {
  std::vector<double> by_matrix;
  for (const OptimizedParameter& matrix : matrices) by_matrix.push_back(work(*matrix.info));
  return by_matrix;
}

WholeMatrices::WholeMatrices(std::span<const OptimizedParameter> matrices, DType type, std::span<const double> work,
                             const ParameterShares& shares)
    : matrices_(matrices.begin(), matrices.end()),
      shares_(shares),
      type_(type),
      owner_(matrices.size()),
      beside_others_(matrices.size()) {
  if (shares.thread) {
    rank_ = shares.thread->rank();
    ranks_ = shares.thread->size();
  }
  std::vector<int64_t> sizes;
  for (const OptimizedParameter& matrix : matrices_) sizes.push_back(matrix.info->size());
  const std::vector<std::vector<int>> of_ranks = matrix_shares(work, ranks_);
  for (int rank = 0; rank < ranks_; ++rank)
    for (const int matrix : of_ranks[index(rank)]) owner_[index(matrix)] = rank;
  for (MatrixWave& wave : matrix_waves(of_ranks, sizes)) {
    const std::vector<int>& own = wave[index(rank_)];
    for (const int matrix : own) beside_others_[index(matrix)] = enough_for_threads(own.size());
    waves_.push_back({.matrices = std::move(wave)});
  }
  // One that travels to its owners, one that is changed, one that travels back.
  const size_t under_way = ranks_ == 1 ? 1 : std::min<size_t>(3, waves_.size());
  std::vector<int64_t> largest(under_way);
  for (size_t wave = 0; wave < waves_.size(); ++wave) {
    int64_t all = 0;
    for (int owner = 0; owner < ranks_; ++owner)
      for (const int matrix : waves_[wave].matrices[index(owner)]) all += elements(matrix, owner);
    largest[wave % under_way] = std::max(largest[wave % under_way], all);
  }
  std::vector<Tensor> slots(under_way);
  memory_ = Arena(
      "matrix updates",
      [&](Arena& arena) {
        for (size_t slot = 0; slot < under_way; ++slot) slots[slot] = arena.take(type, 1, largest[slot]);
      },
      masters_place(matrices_));
  for (size_t wave = 0; wave < waves_.size(); ++wave) lay_out(waves_[wave], slots[wave % under_way]);
}

Run WholeMatrices::run(int matrix, int rank) const {
  const OptimizedParameter& parameter = matrices_[index(matrix)];
  if (!sharded()) return {parameter.number, 0, parameter.info->size()};
  return shares_.partition->runs(rank)[index(parameter.number)];
}

int64_t WholeMatrices::elements(int matrix, int owner) const {
  const int64_t count = owner == rank_ ? matrices_[index(matrix)].info->size() : run(matrix, rank_).count;
  return padded_stride(type_, count);
}

void WholeMatrices::lay_out(Wave& wave, const Tensor& memory) const {
  int64_t first = 0;
  for (int owner = 0; owner < ranks_; ++owner) {
    Pieces results;
    for (const int matrix : wave.matrices[index(owner)]) {
      const int64_t begin = std::exchange(first, first + elements(matrix, owner));
      const ParameterInfo& info = *matrices_[index(matrix)].info;
      const Run own = run(matrix, rank_);
      const Tensor there = memory.slice_cols(begin, first - begin);
      const int64_t inside = owner == rank_ ? own.first : 0;
      const Part& part =
          wave.parts.emplace_back(Part{.matrix = matrix,
                                       .part = there.slice_cols(inside, own.count),
                                       .whole = owner == rank_ ? there.packed_as(info.rows, info.cols) : Tensor()});
      if (!sharded()) {
        results.push_back(bytes_of(part.part, 0, own.count));
      } else if (owner != rank_) {
        wave.to_owners.push_back({owner, bytes_of(there, 0, own.count)});
        wave.back.push_back({owner, bytes_of(there, 0, own.count)});
      } else {
        for (int rank = 0; rank < ranks_; ++rank) {
          if (rank == rank_) continue;
          const Run theirs = run(matrix, rank);
          wave.at_owner.push_back({rank, bytes_of(there, theirs.first, theirs.count)});
          wave.from_owner.push_back({rank, bytes_of(there, theirs.first, theirs.count)});
        }
      }
    }
    if (!sharded()) wave.results.push_back(std::move(results));
  }
}

std::vector<size_t> WholeMatrices::order() const {
  std::vector<size_t> order;
  for (const Wave& wave : waves_)
    for (const Part& part : wave.parts) order.push_back(index(part.matrix));
  return order;
}

void WholeMatrices::begin(Stream& stream, Wave& wave, const Stages& stages) {
  for (const Part& part : wave.parts) {
    if (part.part.size() == 0) continue;
    if (stages.write) stages.write(index(part.matrix), part.part);
    else copy(stream, matrices_[index(part.matrix)].gradient.packed_as(1, part.part.size()), part.part);
  }
  if (ranks_ == 1 || !sharded()) return;
  wave.arrived =
      shares_.thread->submit([&wave](Communicator& ranks) { ranks.transfer(wave.to_owners, wave.at_owner); });
}

void WholeMatrices::change(Stream& stream, Wave& wave, const Stages& stages) {
  if (ranks_ > 1 && sharded()) shares_.thread->wait(wave.arrived);
  change_own(stream, wave, stages);
  if (ranks_ == 1) return;
  wave.returned = shares_.thread->submit([&wave, this](Communicator& ranks) {
    if (sharded()) ranks.transfer(wave.from_owner, wave.back);
    else all_gather(ranks, wave.results);
  });
}

void WholeMatrices::change_own(Stream& stream, const Wave& wave, const Stages& stages) const {
  std::vector<Part> own;
  double bytes = 0, operations = 0;
  for (const Part& part : wave.parts) {
    if (!part.whole) continue;
    own.push_back(part);
    bytes += static_cast<double>(2 * part.whole.bytes());
    operations += stages.operations(index(part.matrix));
  }
  const KernelTimer timer(stream, stages.kernel, bytes, operations);
  const auto one = [&](int64_t i, int64_t thread) {
    const Part& part = own[static_cast<size_t>(i)];
    stages.change(index(part.matrix), part.whole, thread);
  };
  if (enough_for_threads(own.size())) {
    assert(stream.threads() <= shares_.threads);
    return parallel_tasks(stream, std::ssize(own), one);
  }
  for (int64_t i = 0; i < std::ssize(own); ++i) one(i, 0);
}

void WholeMatrices::finish(Wave& wave, const Stages& stages) {
  if (ranks_ > 1) shares_.thread->wait(wave.returned);
  for (const Part& part : wave.parts)
    if (part.part.size() > 0) stages.read(index(part.matrix), part.part);
}

void WholeMatrices::pass(Stream& stream, const Stages& stages) {
  const size_t ahead = ranks_ == 1 ? 0 : 1;  // alone there is nothing to wait for, and one slot
  for (size_t wave = 0; wave < waves_.size() + 2 * ahead; ++wave) {
    if (wave < waves_.size()) begin(stream, waves_[wave], stages);
    if (wave >= ahead && wave < waves_.size() + ahead) change(stream, waves_[wave - ahead], stages);
    if (wave >= 2 * ahead) finish(waves_[wave - 2 * ahead], stages);
  }
}

}  // namespace nibble
