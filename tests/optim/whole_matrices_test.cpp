// Whole matrices on their owners: every element there and back, each matrix changed once in the world.
#include "optim/whole_matrices.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>

#include "comm/local_world.hpp"
#include "comm/thread_communicator.hpp"

namespace nibble {
namespace {

TEST(MatrixWaves, AllIsDoneOnceAndTheWorkIsBalanced) {
  std::vector<double> work;
  for (int layer = 0; layer < 12; ++layer) work.insert(work.end(), {4, 1, 1, 4, 11, 11, 11});
  for (const int ranks : {1, 2, 3, 4, 8, 100}) {
    std::vector<int> times(work.size());
    std::vector<double> load(static_cast<size_t>(ranks));
    const std::vector<std::vector<int>> shares = matrix_shares(work, ranks);
    ASSERT_EQ(shares.size(), load.size());
    for (size_t rank = 0; rank < shares.size(); ++rank)
      for (const int matrix : shares[rank]) {
        ++times[static_cast<size_t>(matrix)];
        load[rank] += work[static_cast<size_t>(matrix)];
      }
    EXPECT_EQ(std::ranges::count(times, 1), std::ssize(times));
    // Nobody has more than a smallest matrix above an even share, or a matrix.
    EXPECT_LE(std::ranges::max(load), std::max(11.0, 12 * 43.0 / ranks + 11)) << ranks;
    if (ranks > 4) continue;
    EXPECT_LE(std::ranges::max(load), 12 * 43.0 / ranks * 1.03) << ranks;
  }
}

TEST(MatrixWaves, HaveAllMatricesInOrderAndAreNoLargerThanTheyMay) {
  constexpr int64_t half = wave_elements / 4;  // of what a wave has of one of two ranks
  const std::vector<int64_t> elements = {3 * half, half, half, 1, 10, half};
  const std::vector<MatrixWave> waves = matrix_waves({{0, 1, 2, 3}, {4, 5}}, elements);
  EXPECT_EQ(waves, (std::vector<MatrixWave>{{{0}, {4, 5}}, {{1, 2}, {}}, {{3}, {}}}));
  EXPECT_TRUE(matrix_waves({{}, {}}, {}).empty());
}

/// Of one rank: infos that all ranks share, masters as the partition cuts them.
std::vector<OptimizedParameter> own_parameters(const std::vector<ParameterInfo>& infos, const Partition* partition,
                                               int rank) {
  std::vector<OptimizedParameter> parameters;
  for (size_t i = 1; i < infos.size(); ++i) {  // the first is none of these matrices
    OptimizedParameter parameter;
    parameter.info = &infos[i];
    parameter.number = static_cast<int>(i);
    if (partition) {
      const Run& run = partition->runs(rank)[i];
      parameter.owned = true;
      parameter.first = run.first;
      parameter.master = Tensor(DType::f32, nullptr, 1, run.count);
    } else {
      parameter.master = Tensor(DType::f32, nullptr, infos[i].rows, infos[i].cols);
    }
    parameters.push_back(parameter);
  }
  return parameters;
}

/// With threads 3, where a rank has fewer matrices than that, it changes them one after the other.
class WholeMatricesOfThreads : public testing::TestWithParam<int> {};

TEST_P(WholeMatricesOfThreads, EveryElementComesToTheOwnerAndBack) {
  std::vector<ParameterInfo> infos;
  const std::pair<int64_t, int64_t> shapes[] = {{3, 3}, {100, 90}, {70, 200}, {1, 5}, {64, 64}, {130, 100}, {8, 4096}};
  std::vector<int64_t> sizes;
  std::vector<std::vector<int>> buckets(2);
  for (const auto& [rows, cols] : shapes) {
    buckets[infos.size() % 2].push_back(static_cast<int>(infos.size()));
    infos.push_back({.name = "matrix" + std::to_string(infos.size()), .rows = rows, .cols = cols});
    sizes.push_back(rows * cols);
  }
  const std::vector<double> work = {9, 14, 1, 4, 13, 3};
  for (const int ranks : {1, 2, 3, 4, 9})
    for (const bool sharded : {false, true}) {
      const Partition partition(sizes, buckets, ranks);
      std::vector<std::atomic<int>> changed(work.size());
      std::vector<std::unique_ptr<Communicator>> communicators =
          make_thread_communicators(ranks, {.seed = 3, .longest = std::chrono::microseconds(300)});
      std::vector<std::jthread> threads;
      for (int rank = 0; rank < ranks; ++rank)
        threads.emplace_back([&, rank] {
          const std::unique_ptr<World> world = make_local_world(std::move(communicators[static_cast<size_t>(rank)]));
          const Partition* const cut = sharded ? &partition : nullptr;
          const std::vector<OptimizedParameter> own = own_parameters(infos, cut, rank);
          Stream stream(GetParam());
          WholeMatrices matrices(own, DType::f32, work,
                                 {.threads = GetParam(), .thread = &world->thread(), .partition = cut});
          std::vector<int64_t> seen(own.size());
          for (int pass = 1; pass <= 2; ++pass)
            matrices.pass(stream, {
                                      .kernel = "matrices",
                                      .operations = [](size_t) { return 1.0; },
                                      .write =
                                          [&](size_t i, const Tensor& part) {
                                            for (int64_t j = 0; j < part.size(); ++j)
                                              part.as<float>()[j] = static_cast<float>(pass * (own[i].first + j + 1));
                                          },
                                      .change =
                                          [&](size_t i, const Tensor& whole, int64_t thread) {
                                            EXPECT_TRUE(matrices.owns(i));
                                            EXPECT_LE(thread, matrices.changes_beside_others(i) ? GetParam() - 1 : 0);
                                            EXPECT_EQ(whole.rows, own[i].info->rows);
                                            ++changed[i];
                                            for (int64_t j = 0; j < whole.size(); ++j) {
                                              float& element = whole.as<float>()[j];
                                              ASSERT_EQ(element, static_cast<float>(pass * (j + 1))) << i << "," << j;
                                              element = -element;
                                            }
                                          },
                                      .read =
                                          [&](size_t i, const Tensor& part) {
                                            ASSERT_EQ(part.size(), own[i].master.size());
                                            for (int64_t j = 0; j < part.size(); ++j)
                                              ASSERT_EQ(part.as<float>()[j],
                                                        -static_cast<float>(pass * (own[i].first + j + 1)));
                                            seen[i] += part.size();
                                          },
                                  });
          for (size_t i = 0; i < own.size(); ++i) EXPECT_EQ(seen[i], 2 * own[i].master.size());
        });
      threads.clear();
      for (const std::atomic<int>& times : changed) EXPECT_EQ(times, 2) << ranks << sharded;
    }
}

INSTANTIATE_TEST_SUITE_P(Threads, WholeMatricesOfThreads, testing::Values(1, 3));

}  // namespace
}  // namespace nibble
