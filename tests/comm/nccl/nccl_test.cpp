// Ranks whose messages lie in the memory of devices: each collective to the bits of the host's, over NCCL (its double),
// through the host, and both.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <thread>
#include <tuple>

#include "comm/bucket_exchange.hpp"
#include "comm/bucket_sums.hpp"
#include "comm/bucket_vector.hpp"
#include "comm/communication_thread.hpp"
#include "comm/exchange.hpp"
#include "tests/comm/collective_checks.hpp"
#include "tests/comm/nccl/device_ranks.hpp"
#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

using namespace std::chrono_literals;

std::vector<int> two_on_each_host(int ranks) {
  std::vector<int> host_of;
  for (int rank = 0; rank < ranks; ++rank) host_of.push_back(rank / 2);
  return host_of;
}

std::unique_ptr<DeviceCommunicator> make(DeviceLinks links, const std::shared_ptr<Communicator>& host,
                                         const std::shared_ptr<Stream>& stream) {
  switch (links) {
    case DeviceLinks::nccl:
      return make_nccl_communicator(host, stream, patient);
    case DeviceLinks::hierarchical:
      return make_hierarchical_communicator(host, stream, two_on_each_host(host->size()), patient);
    case DeviceLinks::staged:
      break;
  }
  return make_staged_communicator(host, stream);
}

class DeviceCollectives : public testing::TestWithParam<std::tuple<DeviceLinks, int>> {
 protected:
  static void on_ranks(const std::function<void(Communicator&)>& body) {
    const auto [links, ranks] = GetParam();
    const auto seed = static_cast<uint64_t>(ranks);
    run_on_devices({.ranks = ranks,
                    .share = links == DeviceLinks::staged,
                    .faults = {.seed = seed, .longest_delay = 300us},
                    .delays = {.seed = seed, .longest = 300us}},
                   [links = links, &body](const auto& host, const auto& stream) { body(*make(links, host, stream)); });
  }
};

TEST_P(DeviceCollectives, SmallThings) {
  on_ranks([](Communicator& communicator) {
    barrier(communicator);
    check_broadcast(communicator);
    check_gather_of_numbers(communicator);
    check_gather_of_texts(communicator);
  });
}
TEST_P(DeviceCollectives, GatherRaggedParts) { on_ranks(check_all_gather); }
TEST_P(DeviceCollectives, ScatterEveryContributionToItsOwner) {
  for (const Wire wire : {Wire::f32, Wire::bf16})
    on_ranks([&](Communicator& communicator) { check_scatter_to_owners(communicator, wire); });
}
TEST_P(DeviceCollectives, SumInTheTreeOfTheLanes) {
  for (const Wire wire : {Wire::f32, Wire::bf16})
    on_ranks([&](Communicator& communicator) { check_reduce_scatter(communicator, wire); });
}
TEST_P(DeviceCollectives, LeaveTheSameBitsOnAllRanks) {
  on_ranks([](Communicator& communicator) { check_equal_on_all_ranks(communicator, Wire::bf16); });
}
TEST_P(DeviceCollectives, SendWhatOthersNeedAndNothingElse) {
  on_ranks([](Communicator& communicator) { check_bytes_sent(communicator, Wire::bf16); });
}

std::string name_of(DeviceLinks links) {
  return links == DeviceLinks::nccl ? "Nccl" : links == DeviceLinks::staged ? "Staged" : "Hierarchical";
}

std::string name_of_test(const testing::TestParamInfo<std::tuple<DeviceLinks, int>>& test) {
  const auto [links, count] = test.param;
  return fmt::format("{}Of{}Ranks", name_of(links), count);
}

INSTANTIATE_TEST_SUITE_P(OneLink, DeviceCollectives,
                         testing::Combine(testing::Values(DeviceLinks::nccl, DeviceLinks::staged),
                                          testing::Range(1, 5)),
                         name_of_test);
INSTANTIATE_TEST_SUITE_P(BothLinks, DeviceCollectives,
                         testing::Combine(testing::Values(DeviceLinks::hierarchical), testing::Values(3, 4)),
                         name_of_test);

/// A rank's values in its device's memory, or in the host's for host's communicators.
class RankValues {
 public:
  RankValues(Communicator& communicator, const std::vector<float>& values)
      : communicator_(communicator),
        memory_(values.size() * sizeof(float), "test", communicator.stream() ? Place::device : Place::host) {
    move(memory_.data(), values.data());
  }
  /// Elements [first, first + count).
  std::span<std::byte> run(int64_t first, int64_t count) const {
    return {static_cast<std::byte*>(memory_.data()) + static_cast<size_t>(first) * sizeof(float),
            static_cast<size_t>(count) * sizeof(float)};
  }
  std::vector<float> now() const {
    std::vector<float> values(memory_.bytes() / sizeof(float));
    move(values.data(), memory_.data());
    return values;
  }

 private:
  void move(void* to, const void* from) const {
    if (communicator_.stream()) communicator_.stream()->queue().copy(to, from, memory_.bytes());
    else std::memcpy(to, from, memory_.bytes());
    communicator_.wait();
  }

  Communicator& communicator_;
  Buffer memory_;
};

std::vector<float> normal_values(int rank, int64_t count) {
  std::mt19937 random(static_cast<uint32_t>(rank));
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Longer than three of a device's segments, whose memory is then used again.
TEST(DeviceSums, OfLongVectors) {
  constexpr int64_t count = 3'200'000;
  const std::vector<float> first = normal_values(0, count), second = normal_values(1, count);
  for (const DeviceLinks links : {DeviceLinks::nccl, DeviceLinks::staged})
    run_on_devices({.share = links == DeviceLinks::staged, .faults = {.longest_delay = 1ms}},
                   [&](const auto& host, const auto& stream) {
                     const auto communicator = make(links, host, stream);
                     const RankValues values(*communicator, host->rank() == 0 ? first : second);
                     const Parts parts = {{values.run(0, count - 5)}, {values.run(count - 5, 5)}};
                     reduce_scatter(*communicator, parts, Wire::f32);
                     all_gather(*communicator, parts);
                     const std::vector<float> sums = values.now();
                     int64_t wrong = 0;
                     for (size_t i = 0; i < sums.size(); ++i) wrong += sums[i] != first[i] + second[i];
                     EXPECT_EQ(wrong, 0);
                   });
}

/// What ranks end with, by rank.
using Results = std::vector<std::vector<float>>;

constexpr int ranks = 4;
constexpr int64_t elements = 3 * 4096 + 700;

ExchangePlan plan(SumGoes goes) {
  ExchangePlan plan{.part_elements = {{}}, .group = {}, .goes = goes};
  for (int rank = 0; rank < ranks; ++rank)
    plan.part_elements[0].push_back(part_begin(elements, ranks, rank + 1, 4096) -
                                    part_begin(elements, ranks, rank, 4096));
  return plan;
}

/// One step of a bucket's sum.
std::vector<float> summed(Communicator& communicator, SumGoes goes, const MakeBucketSum& make_sum) {
  ExchangePlan of_memory = plan(goes);
  if (communicator.stream()) of_memory.memory = Place::device;
  const BucketPlace place = places_of(of_memory, communicator.rank(), 7).front();
  const RankValues values(communicator, normal_values(communicator.rank(), elements));
  Parts parts;
  for (int rank = 0; rank < ranks; ++rank) {
    const int64_t begin = place.part_begin(rank), count = place.part_elements[static_cast<size_t>(rank)];
    parts.push_back({values.run(begin, count / 3), values.run(begin + count / 3, count - count / 3)});
  }
  make_sum(place)->sum(communicator, parts, 0, {});
  communicator.wait();
  std::vector<float> all = values.now();
  const std::span<float> result = result_of(std::span(all), place);
  return {result.begin(), result.end()};
}

Results on_hosts(SumGoes goes, const MakeBucketSum& make_sum) {
  Results results(ranks);
  run_on_ranks(ranks, [&](Communicator& communicator) {
    results[static_cast<size_t>(communicator.rank())] = summed(communicator, goes, make_sum);
  });
  return results;
}

Results on_devices(DeviceLinks links, SumGoes goes, const MakeBucketSum& make_sum) {
  Results results(ranks);
  run_on_devices({.ranks = ranks, .share = links == DeviceLinks::staged, .faults = {.longest_delay = 100us}},
                 [&](const auto& host, const auto& stream) {
                   results[static_cast<size_t>(host->rank())] = summed(*make(links, host, stream), goes, make_sum);
                 });
  return results;
}

void expect_the_hosts_bits(const MakeBucketSum& of_host, const MakeBucketSum& of_device, const std::string& what) {
  for (const SumGoes goes : {SumGoes::to_all, SumGoes::to_owner}) {
    const Results expected = on_hosts(goes, of_host);
    for (const DeviceLinks links : {DeviceLinks::nccl, DeviceLinks::hierarchical, DeviceLinks::staged}) {
      const Results seen = on_devices(links, goes, of_device);
      for (size_t rank = 0; rank < ranks; ++rank)
        EXPECT_TRUE(same_bits(seen[rank], expected[rank])) << what << ", " << name_of(links) << ", rank " << rank;
    }
  }
}

TEST(DeviceSums, DenseAsTheHosts) {
  for (const Wire wire : {Wire::f32, Wire::bf16}) {
    const MakeBucketSum make_sum = [=](const BucketPlace& place) { return make_dense_sum(place, wire); };
    expect_the_hosts_bits(make_sum, make_sum, "dense");
  }
}

// FP8 and INT8 codes that everybody gathers, sums of integer counts, indices with values.
TEST(DeviceSums, CompressedAsTheHosts) {
  for (const char* const name : {"fp8", "qsgd-8", "correlated-4", "rotated-correlated-2"}) {
    const MakeBucketSum of_host = [=](const BucketPlace& place) {
      return make_quantized_sum(place, codec_named(name, 1024, "test"));
    };
    expect_the_hosts_bits(
        of_host, [&](const BucketPlace& place) { return make_sum_on_host(place, of_host); }, name);
  }
  const MakeBucketSum sparse = [](const BucketPlace& place) { return make_sparse_sum(place, {.selection = {.k = 4}}); };
  expect_the_hosts_bits(
      sparse, [&](const BucketPlace& place) { return make_sum_on_host(place, sparse); }, "sparse");
}

TEST(DeviceSums, HierarchicalAsTheHosts) {
  for (const std::vector<int>& host : {std::vector<int>{0, 0, 1, 1}, {0, 1, 1, 0}}) {
    const auto hierarchical = [&](bool on_host) {
      return [&host, on_host](const BucketPlace& place) {
        return make_hierarchical_sum(place, host, [on_host](const BucketPlace& between) {
          const MakeBucketSum inner = [](const BucketPlace& here) {
            return make_quantized_sum(here, codec_named("correlated-4", 1024, "test"));
          };
          return on_host ? make_sum_on_host(between, inner) : inner(between);
        });
      };
    };
    expect_the_hosts_bits(hierarchical(false), hierarchical(true), "hierarchical");
  }
}

// As NCCL has them, and nobody else.
TEST(DeviceCommunicator, AddsIntegersAndFindsTheLargest) {
  using Reduction = DeviceCommunicator::Reduction;
  constexpr int count = 1000;
  for (const int all : {1, 3}) {
    const auto reduced = [&]<class T>(DeviceCommunicator& communicator, Reduction how, T each) {
      std::vector<T> values(count);
      for (int i = 0; i < count; ++i) values[static_cast<size_t>(i)] = static_cast<T>(each * (i % 7));
      const Buffer there(count * sizeof(T), "test", Place::device);
      communicator.stream()->queue().copy(there.data(), values.data(), there.bytes());
      communicator.all_reduce(how, {static_cast<std::byte*>(there.data()), there.bytes()});
      communicator.stream()->queue().copy(values.data(), there.data(), there.bytes());
      communicator.wait();
      return values;
    };
    run_on_devices({.ranks = all, .faults = {.longest_delay = 300us}}, [&](const auto& host, const auto& stream) {
      const auto communicator = make(DeviceLinks::nccl, host, stream);
      ASSERT_TRUE(communicator->reduces());
      const int own = host->rank() + 1, sum = all * (all + 1) / 2;
      const uint64_t before = communicator->bytes_sent();
      const std::vector<uint8_t> bytes = reduced(*communicator, Reduction::sum_of_bytes, static_cast<uint8_t>(own));
      EXPECT_EQ(communicator->bytes_sent() - before, static_cast<uint64_t>(2 * (all - 1) * count / all));
      const std::vector<int32_t> ints = reduced(*communicator, Reduction::sum_of_ints, 1000 * own);
      const std::vector<float> largest = reduced(*communicator, Reduction::largest_float, 0.3f * float(own));
      for (int i = 0; i < count; ++i) {
        const auto at = static_cast<size_t>(i);
        ASSERT_EQ(bytes[at], i % 7 * sum);
        ASSERT_EQ(ints[at], 1000 * (i % 7) * sum);
        ASSERT_EQ(largest[at], 0.3f * float(all) * float(i % 7));
      }
    });
  }
  run_on_devices({.share = true}, [&](const auto& host, const auto& stream) {
    EXPECT_FALSE(make(DeviceLinks::staged, host, stream)->reduces());
  });
}

TEST(DeviceSums, ShowEveryRankAnothersNan) {
  const auto nan_of_rank_1 = [](Communicator& communicator) {
    std::vector<float> values = normal_values(communicator.rank(), 1000);
    if (communicator.rank() == 1) values[777] = std::nanf("");
    const RankValues on_device(communicator, values);
    Parts parts;
    for (int rank = 0; rank < 3; ++rank) parts.push_back({on_device.run(rank * 300, rank == 2 ? 400 : 300)});
    reduce_scatter(communicator, parts, Wire::bf16);
    all_gather(communicator, parts, Wire::bf16);
    const std::vector<float> sums = on_device.now();
    for (size_t i = 0; i < sums.size(); ++i) EXPECT_EQ(std::isnan(sums[i]), i == 777) << i;
  };
  run_on_devices({.ranks = 3},
                 [&](const auto& host, const auto& stream) { nan_of_rank_1(*make(DeviceLinks::nccl, host, stream)); });
}

TEST(DeviceCommunicator, MovesMessagesBetweenWhatOtherQueuesComputeBeforeAndAfter) {
  for (const DeviceLinks links : {DeviceLinks::nccl, DeviceLinks::staged, DeviceLinks::hierarchical})
    run_on_devices({.ranks = 3, .share = links == DeviceLinks::staged, .faults = {.longest_delay = 2ms}},
                   [&](const auto& host, const auto& stream) {
                     const auto communicator = make(links, host, stream);
                     const std::unique_ptr<cuda::Queue> computing = cuda::make_queue();
                     const size_t rank = static_cast<size_t>(host->rank()), part = 5000;
                     const std::vector<uint8_t> mine(part, static_cast<uint8_t>(rank + 1));
                     std::vector<uint8_t> all(3 * part);
                     const Buffer memory(3 * part, "test", Place::device);
                     auto* const there = static_cast<std::byte*>(memory.data());
                     Parts parts;
                     for (size_t r = 0; r < 3; ++r) parts.push_back({{there + r * part, part}});

                     computing->copy(there + rank * part, mine.data(), part);
                     stream->queue().after(*computing);
                     all_gather(*communicator, parts);
                     computing->after(stream->queue());
                     computing->copy(all.data(), there, 3 * part);
                     computing->wait();
                     for (size_t i = 0; i < all.size(); ++i) ASSERT_EQ(all[i], i / part + 1) << i;
                   });
}

/// A world of communication threads, as runs have it.
void run_in_threads(int count, const std::function<std::unique_ptr<Communicator>(std::unique_ptr<Communicator>)>& make,
                    const std::function<void(CommunicationThread&)>& body) {
  std::vector<std::unique_ptr<Communicator>> hosts = make_thread_communicators(count);
  std::vector<std::thread> owners;
  for (std::unique_ptr<Communicator>& host : hosts)
    owners.emplace_back([&] {
      CommunicationThread thread([&] { return make(std::move(host)); });
      body(thread);
    });
  for (std::thread& owner : owners) owner.join();
}

TEST(DeviceCommunicator, CarriesTheDenseExchangeOfARun) {
  constexpr int64_t count = 10'000;
  const auto exchanged = [&](CommunicationThread& thread) {
    std::vector<float> sums;
    std::unique_ptr<RankValues> values;
    Parts parts;
    thread.run([&](Communicator& communicator) {
      values = std::make_unique<RankValues>(communicator, normal_values(communicator.rank(), count));
    });
    for (int rank = 0; rank < 3; ++rank) parts.push_back({values->run(rank * 3000, rank == 2 ? 4000 : 3000)});
    const std::unique_ptr<GradientExchange> exchange = make_dense_exchange(thread, Wire::bf16, SumGoes::to_all);
    exchange->start(0);
    exchange->begin(0, parts, {});
    exchange->finish();
    thread.run([&](Communicator&) {
      sums = values->now();
      values.reset();
    });
    return sums;
  };
  Results expected(3), seen(3);
  run_in_threads(
      3, [](std::unique_ptr<Communicator> host) { return host; },
      [&](CommunicationThread& thread) { expected[static_cast<size_t>(thread.rank())] = exchanged(thread); });
  nccl_double::reset();
  cuda::emulation::set_devices(3);
  run_in_threads(
      3,
      [](std::unique_ptr<Communicator> host) {
        const int device = host->rank();
        return make_device_communicator(std::move(host), device, DeviceLinks::nccl, {}, patient);
      },
      [&](CommunicationThread& thread) { seen[static_cast<size_t>(thread.rank())] = exchanged(thread); });
  EXPECT_EQ(nccl_double::violations(), std::vector<std::string>());
  cuda::emulation::set_devices(1);
  for (size_t rank = 0; rank < 3; ++rank) EXPECT_TRUE(same_bits(seen[rank], expected[rank])) << rank;
}

std::vector<RankDevice> four_ranks() {
  std::vector<RankDevice> four;
  for (const char* const identity : {"a", "b", "c", "d"})
    four.push_back({.host = "node", .device = "H200", .identity = identity});
  return four;
}

TEST(DeviceLinks, AreNcclWhereEveryRankHasItAndAGpuOfItsOwn) {
  EXPECT_EQ(usable_links(four_ranks(), {}), DeviceLinks::nccl);
  for (const DeviceLinks links : {DeviceLinks::nccl, DeviceLinks::hierarchical, DeviceLinks::staged})
    EXPECT_EQ(usable_links(four_ranks(), links), links);
  std::vector<RankDevice> sharing = four_ranks(), without = four_ranks();
  sharing[3].identity = "b";
  without[2].without_nccl = "libnccl.so.2: not found";
  for (const auto& [some, why] : {std::pair{sharing, "ranks 1 and 3 share a GPU"},
                                  {without, "rank 2 on node has none: libnccl.so.2: not found"}}) {
    EXPECT_EQ(usable_links(some, {}), DeviceLinks::staged);
    EXPECT_EQ(usable_links(some, DeviceLinks::staged), DeviceLinks::staged);
    for (const DeviceLinks links : {DeviceLinks::nccl, DeviceLinks::hierarchical})
      expect_error(ErrorKind::configuration, {"the ranks cannot use NCCL", "run.gpu_exchange", why, "staged"},
                   [&] { usable_links(some, links); });
  }
}

TEST(DeviceLinks, RefuseDifferentGpus) {
  EXPECT_NO_THROW(require_equal(four_ranks()));
  std::vector<RankDevice> some = four_ranks();
  some[2].device = "RTX 4090";
  expect_error(
      ErrorKind::configuration,
      {"different GPUs", "rank 2 on node", "RTX 4090: ranks 2 on node", "H200: ranks 0 on node, 1 on node, 3 on node"},
      [&] { require_equal(some); });
}

// A rank's GPU goes on computing while the job waits for its turn, and the job's work comes behind what it needs.
TEST(DeviceLinks, JobsOfAThreadComeBehindWhatWasComputed) {
  for (const DeviceLinks links : {DeviceLinks::nccl, DeviceLinks::staged}) {
    nccl_double::reset();
    cuda::emulation::set_devices(2);
    run_in_threads(
        2, [](std::unique_ptr<Communicator> host) { return host; },
        [&](CommunicationThread& thread) {
          const int device = links == DeviceLinks::nccl ? thread.rank() : 0;
          Stream computing(1, Place::device, device);
          std::shared_ptr<Communicator> own;
          const auto remake = [&](std::shared_ptr<Communicator> host) -> std::shared_ptr<Communicator> {
            own = host;
            const std::vector<RankDevice> devices = gather_devices(*host, device);
            EXPECT_EQ(usable_links(devices, {}), links);
            return make_device_communicator(std::move(host), device, links, devices, patient);
          };
          EXPECT_EQ(thread.stream(), nullptr);
          thread.change(remake, &computing.queue());
          ASSERT_NE(thread.stream(), nullptr);
          const float mine = static_cast<float>(thread.rank() + 1), later = 100;
          float sum = 0;
          {
            const Buffer memory(2 * sizeof(float), "test", Place::device);
            auto* const there = static_cast<std::byte*>(memory.data());
            computing.queue().copy(there, &mine, sizeof mine);
            const auto ticket = thread.submit([there](Communicator& communicator) {
              const Parts parts = {{{there, sizeof(float)}}, {}};
              reduce_scatter(communicator, parts, Wire::f32);
              all_gather(communicator, parts);
            });
            computing.queue().copy(there + sizeof(float), &later, sizeof later);
            thread.wait(ticket);
            EXPECT_GT(thread.totals().bytes_sent, 0u);
            computing.queue().copy(&sum, there, sizeof sum);
            computing.wait();
          }
          EXPECT_EQ(sum, 3);
          thread.change([&](const auto&) { return own; });
          EXPECT_EQ(thread.stream(), nullptr);
          thread.run([](Communicator& communicator) { barrier(communicator); });
        });
    EXPECT_EQ(nccl_double::violations(), std::vector<std::string>());
    cuda::emulation::set_devices(1);
  }
}

}  // namespace
}  // namespace nibble
