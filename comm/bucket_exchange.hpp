// Exchanges that are a sum for each bucket: everything but plain dense sums.
//
// Each step also sums a sample of the gradient's elements as they are, which tells how far off the others are.
// Not for: the sums (bucket_sums.hpp).
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "comm/bucket_sums.hpp"
#include "comm/exchange.hpp"

namespace nibble {

using MakeBucketSum = std::function<BucketSumPointer(const BucketPlace& place)>;

/// The places of all buckets of `plan` for `rank`, with one scratch memory.
std::vector<BucketPlace> places_of(const ExchangePlan& plan, int rank, uint64_t seed);

/// Each bucket's sum runs on the communication thread.
std::unique_ptr<GradientExchange> make_bucket_exchange(CommunicationThread& thread, const ExchangePlan& plan,
                                                       uint64_t seed, const MakeBucketSum& make_sum);

/// The same among `ranks` that this process plays, of which each has computed as many of the step's micro-batches:
/// what an exchange does to training, without the ranks. Takes every micro-batch as it comes (a `fold`). `plan`: of a
/// single real rank, whose turns are a multiple of `ranks`, and whose thread it is. Those that are played have their
/// gradients in the host's memory.
std::unique_ptr<GradientExchange> make_virtual_exchange(CommunicationThread& thread, const ExchangePlan& plan,
                                                        int ranks, uint64_t seed, const MakeBucketSum& make_sum);

}  // namespace nibble
