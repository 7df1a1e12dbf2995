// Comparisons of sums on ranks with GPUs.
#include <gtest/gtest.h>

#include "tests/comm/nccl/device_ranks.hpp"
#include "trainer/exchange_comparison.hpp"

namespace nibble {
namespace {

/// What a trial finds out of a sum is what GPUs make of it, not their hosts.
TEST(GpuComparison, TakesPlaceInTheMemoryOfTheGpus) {
  constexpr int ranks = 3;
  const SparseSumOptions options{.selection = {.k = 4}, .wire = Wire::bf16};
  const auto compared_in = [&](Communicator& links, Place memory) {
    const ComparedSum sum{.name = "", .make = [&](const BucketPlace& place) {
                            EXPECT_EQ(place.memory, memory);
                            return make_sparse_sum(place, options);
                          }};
    return compare_sums(links, {sum}, {.elements = 3 * 4096 + 5, .repeats = 1}).front();
  };
  std::vector<SumMeasurement> expected(ranks), seen(ranks);
  run_on_ranks(
      ranks, [&](Communicator& link) { expected[static_cast<size_t>(link.rank())] = compared_in(link, Place::host); });
  run_on_devices({.ranks = ranks}, [&](const auto& host, const auto& stream) {
    const std::unique_ptr<DeviceCommunicator> links = make_nccl_communicator(host, stream, patient);
    seen[static_cast<size_t>(host->rank())] = compared_in(*links, Place::device);
    for (const double factor : with_computing(*links, options, {.latency = 1e-6, .per_byte = 1e-6}).computing)
      EXPECT_GT(factor, 0);
  });
  for (size_t rank = 0; rank < ranks; ++rank) {
    EXPECT_EQ(seen[rank].way, expected[rank].way);
    EXPECT_EQ(seen[rank].error, expected[rank].error);
    EXPECT_EQ(seen[rank].bytes, expected[rank].bytes);
    EXPECT_GT(seen[rank].seconds, 0);
  }
}

}  // namespace
}  // namespace nibble
