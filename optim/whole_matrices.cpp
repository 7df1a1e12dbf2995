#include "optim/whole_matrices.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace nibble {
namespace {

constexpr int none = -1;

size_t index(int i) { return static_cast<size_t>(i); }

std::span<std::byte> bytes_of(const Tensor& packed, int64_t first, int64_t count) {
  return std::as_writable_bytes(std::span(packed.as<float>() + first, static_cast<size_t>(count)));
}

}  // namespace

std::vector<std::vector<int>> matrix_waves(std::span<const double> work, int ranks) {
  std::vector<int> order(work.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return work[index(a)] > work[index(b)]; });
  std::vector<double> load(index(ranks));
  std::vector<size_t> count(index(ranks));
  std::vector<std::vector<int>> waves;
  for (const int matrix : order) {
    const auto rank = static_cast<size_t>(std::min_element(load.begin(), load.end()) - load.begin());
    load[rank] += work[index(matrix)];
    const size_t wave = count[rank]++;
    if (wave == waves.size()) waves.emplace_back(index(ranks), none);
    waves[wave][rank] = matrix;
  }
  return waves;
}

WholeMatrices::WholeMatrices(std::span<const OptimizedParameter> matrices, std::span<const double> work,
                             const ParameterShares& shares)
    : matrices_(matrices.begin(), matrices.end()), shares_(shares), owner_(matrices.size()) {
  if (shares.thread) {
    rank_ = shares.thread->rank();
    ranks_ = shares.thread->size();
  }
  for (std::vector<int>& wave : matrix_waves(work, ranks_)) {
    for (int rank = 0; rank < ranks_; ++rank)
      if (const int matrix = wave[index(rank)]; matrix != none) owner_[index(matrix)] = rank;
    waves_.push_back({.matrices = std::move(wave), .parts = std::vector<Tensor>(index(ranks_))});
  }
  // One that travels to its owners, one that is changed, one that travels back.
  const size_t under_way = ranks_ == 1 ? 1 : std::min<size_t>(3, waves_.size());
  std::vector<int64_t> largest(under_way);
  for (size_t wave = 0; wave < waves_.size(); ++wave) {
    int64_t all = 0;
    for (int owner = 0; owner < ranks_; ++owner) all += elements(waves_[wave], owner);
    largest[wave % under_way] = std::max(largest[wave % under_way], all);
  }
  std::vector<Tensor> slots(under_way);
  memory_ = Arena("orthogonalisation", [&](Arena& arena) {
    for (size_t slot = 0; slot < under_way; ++slot) slots[slot] = arena.take(DType::f32, 1, largest[slot]);
  });
  for (size_t wave = 0; wave < waves_.size(); ++wave) lay_out(waves_[wave], slots[wave % under_way]);
}

Run WholeMatrices::run(int matrix, int rank) const {
  const OptimizedParameter& parameter = matrices_[index(matrix)];
  if (!sharded()) return {parameter.number, 0, parameter.info->size()};
  return shares_.partition->runs(rank)[index(parameter.number)];
}

int64_t WholeMatrices::elements(const Wave& wave, int owner) const {
  const int matrix = wave.matrices[index(owner)];
  if (matrix == none) return 0;
  const int64_t count = owner == rank_ ? matrices_[index(matrix)].info->size() : run(matrix, rank_).count;
  return padded_stride(DType::f32, count);
}

void WholeMatrices::lay_out(Wave& wave, const Tensor& memory) const {
  int64_t first = 0;
  for (int owner = 0; owner < ranks_; ++owner) {
    const int matrix = wave.matrices[index(owner)];
    const int64_t begin = std::exchange(first, first + elements(wave, owner));
    if (matrix == none) continue;
    const ParameterInfo& info = *matrices_[index(matrix)].info;
    const Run own = run(matrix, rank_);
    const Tensor there = memory.slice_cols(begin, first - begin);
    if (owner == rank_) wave.whole = Tensor(DType::f32, there.data, info.rows, info.cols);
    const int64_t inside = owner == rank_ ? own.first : 0;
    wave.parts[index(owner)] = Tensor(there.as<float>() + inside, 1, own.count);
    if (owner != rank_) {
      wave.to_owners.push_back({owner, bytes_of(there, 0, own.count)});
      wave.back.push_back({owner, bytes_of(there, 0, own.count)});
      continue;
    }
    for (int rank = 0; rank < ranks_; ++rank) {
      if (rank == rank_) continue;
      const Run theirs = run(matrix, rank);
      wave.at_owner.push_back({rank, bytes_of(there, theirs.first, theirs.count)});
      wave.from_owner.push_back({rank, bytes_of(there, theirs.first, theirs.count)});
    }
  }
  if (sharded()) return;
  for (const Tensor& part : wave.parts)
    wave.results.push_back(part.size() == 0 ? Pieces() : Pieces{bytes_of(part, 0, part.size())});
}

void WholeMatrices::begin(Wave& wave, const Stages& stages) {
  for (size_t owner = 0; owner < wave.parts.size(); ++owner)
    if (const Tensor& part = wave.parts[owner]; part.size() > 0)
      stages.write(static_cast<size_t>(wave.matrices[owner]), part);
  if (ranks_ == 1 || !sharded()) return;
  wave.arrived =
      shares_.thread->submit([&wave](Communicator& ranks) { ranks.transfer(wave.to_owners, wave.at_owner); });
}

void WholeMatrices::change(Wave& wave, const Stages& stages) {
  if (ranks_ > 1 && sharded()) shares_.thread->wait(wave.arrived);
  if (wave.whole) stages.change(static_cast<size_t>(wave.matrices[index(rank_)]), wave.whole);
  if (ranks_ == 1) return;
  wave.returned = shares_.thread->submit([&wave, this](Communicator& ranks) {
    if (sharded()) ranks.transfer(wave.from_owner, wave.back);
    else all_gather(ranks, wave.results);
  });
}

void WholeMatrices::finish(Wave& wave, const Stages& stages) {
  if (ranks_ > 1) shares_.thread->wait(wave.returned);
  for (size_t owner = 0; owner < wave.parts.size(); ++owner)
    if (const Tensor& part = wave.parts[owner]; part.size() > 0)
      stages.read(static_cast<size_t>(wave.matrices[owner]), part);
}

void WholeMatrices::pass(const Stages& stages) {
  const size_t ahead = ranks_ == 1 ? 0 : 1;  // alone there is nothing to wait for, and one slot
  for (size_t wave = 0; wave < waves_.size() + 2 * ahead; ++wave) {
    if (wave < waves_.size()) begin(waves_[wave], stages);
    if (wave >= ahead && wave < waves_.size() + ahead) change(waves_[wave - ahead], stages);
    if (wave >= 2 * ahead) finish(waves_[wave - 2 * ahead], stages);
  }
}

}  // namespace nibble
