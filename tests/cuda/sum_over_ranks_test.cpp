// Sums over ranks have the host's bits, however many ranks there are and wherever their contributions lie.
#include <gtest/gtest.h>

#include <vector>

#include "comm/cuda/kernels.hpp"
#include "tests/cuda/on_device.hpp"

namespace nibble {
namespace {

using testing::drawn;
using testing::on_device;
using testing::on_host;
using testing::same_bits;

/// The contributions are rows of a matrix, `stride` apart; the sum has its own memory, or that of rank 0's.
void check(Stream& device, int ranks, int64_t first, int64_t count, int64_t stride, bool in_place) {
  const std::unique_ptr<Communicator> host = make_self_communicator();
  const OwnedTensor values = drawn(DType::f32, ranks, stride, static_cast<unsigned>(ranks));
  const OwnedTensor there = on_device(device, values);
  OwnedTensor sum(DType::f32, 1, count + 1, "test"), sum_there(DType::f32, 1, count + 1, "test", Place::device);
  std::vector<const float*> contributions, contributions_there;
  for (int rank = 0; rank < ranks; ++rank) {
    contributions.push_back(values.view().row<float>(rank));
    contributions_there.push_back(there.view().on_device<float>() + rank * stride);
  }
  const std::vector<MicroBatchSum> plan = plan_lanes(ranks, ranks);
  WireWork(*host).sum(plan, contributions, first, count, sum.view().as<float>());
  float* const to = in_place ? there.view().on_device<float>() + first : sum_there.view().on_device<float>();
  cuda::sum_over_ranks(device, plan, contributions_there, first, count, to);
  if (in_place) copy(device, there.view().slice_rows(0, 1).run(first, count), sum_there.view().run(0, count));
  EXPECT_TRUE(same_bits(on_host(device, sum_there), sum)) << ranks << " ranks, " << count << " from " << first;
}

TEST(SumOverRanks, HasTheHostsBits) {
  Stream device(1, Place::device);
  for (const int ranks : {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 31, 64, 255, 256}) check(device, ranks, 0, 37, 40, false);
  for (const int64_t count : {1, 3, 4, 5, 1023, 1024, 1025, 5000})
    for (const int64_t first : {0, 1, 4})
      for (const int64_t stride : {5008, 5005}) check(device, 3, first, count, stride, count % 2 == 0);
}

TEST(SumOverRanks, OfNothing) {
  Stream device(1, Place::device);
  check(device, 2, 0, 0, 4, false);
}

}  // namespace
}  // namespace nibble
