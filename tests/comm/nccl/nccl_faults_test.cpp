// What NCCL does when it fails, and what becomes of the ranks: every wait ends, with what was wrong. And the double
// itself finds what breaks NCCL's rules.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <thread>

#include "comm/collectives.hpp"
#include "comm/communication_thread.hpp"
#include "comm/host_name.hpp"
#include "tests/comm/nccl/device_ranks.hpp"
#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

using namespace std::chrono_literals;

/// For ranks that wait in vain: for others to start, or for messages.
constexpr NcclOptions impatient{.start_deadline = 300ms, .stall_deadline = patient.stall_deadline};
constexpr NcclOptions soon_impatient{.start_deadline = patient.start_deadline, .stall_deadline = 3s};

/// A vector of three parts in the memory of the calling thread's device.
struct Vector {
  explicit Vector(size_t part) : memory(3 * part, "test", Place::device) {
    for (size_t rank = 0; rank < 3; ++rank)
      parts.push_back({{static_cast<std::byte*>(memory.data()) + rank * part, part}});
  }

  Buffer memory;
  Parts parts;
};

/// Gathers again and again until it throws.
void gather_until_it_fails(Communicator& communicator) {
  const Vector vector(1000);
  while (true) {
    all_gather(communicator, vector.parts);
    communicator.wait();
  }
}

TEST(NcclFaults, RanksFailTogetherWhereRank0CannotBegin) {
  run_on_devices({.ranks = 3, .faults = {.unique_id = ncclSystemError}}, [](const auto& host, const auto& stream) {
    expect_error(ErrorKind::communication,
                 {"NCCL does not start", fmt::format("rank {} of 3 on {}", host->rank(), host_name()), "system error",
                  "as the double was told", "NCCL_DEBUG"},
                 [&] { make_nccl_communicator(host, stream, patient); });
  });
}

TEST(NcclFaults, AProgramThatDoesNotFindItSaysSo) {
  run_on_devices({.faults = {.missing = "libnccl.so.2: no such file"}}, [](const auto& host, const auto& stream) {
    expect_error(ErrorKind::communication, {"NCCL does not start", "libnccl.so.2: no such file"},
                 [&] { make_nccl_communicator(host, stream, patient); });
  });
}

TEST(NcclFaults, ARankThatCannotStartSaysSoAndTheOthersDoNotWaitForEver) {
  run_on_devices({.ranks = 3, .faults = {.unable = 1}}, [](const auto& host, const auto& stream) {
    const std::string seen = host->rank() == 1 ? "system error" : "nothing happened for 0.3 s";
    expect_error(ErrorKind::communication, {"NCCL does not start", seen},
                 [&] { make_nccl_communicator(host, stream, impatient); });
  });
}

TEST(NcclFaults, ARankThatNeverComes) {
  run_on_devices({.ranks = 3, .faults = {.absent = 2}}, [](const auto& host, const auto& stream) {
    expect_error(ErrorKind::communication, {"NCCL does not start", "nothing happened"},
                 [&] { make_nccl_communicator(host, stream, impatient); });
  });
}

TEST(NcclFaults, TwoRanksOnOneGpu) {
  run_on_devices({.ranks = 2, .share = true}, [](const auto& host, const auto& stream) {
    expect_error(ErrorKind::communication, {"NCCL does not start"},
                 [&] { make_nccl_communicator(host, stream, impatient); });
  });
}

// Rank 1 reports an error. Of the others, some hear of it, and some wait until their time is over.
TEST(NcclFaults, AnErrorInTheMiddleEndsEveryWait) {
  for (const bool all_learn : {true, false})
    run_on_devices(
        {.ranks = 3, .faults = {.failing = 1, .groups_before = 7, .all_learn = all_learn}},
        [&](const auto& host, const auto& stream) {
          const auto communicator = make_nccl_communicator(host, stream, all_learn ? patient : soon_impatient);
          const std::string seen = host->rank() == 1 ? "system error"
                                   : all_learn       ? "remote process"
                                                     : "nothing happened";
          expect_error(ErrorKind::communication, {"NCCL failed", seen}, [&] { gather_until_it_fails(*communicator); });
          // From then on at once, with the first reason.
          expect_error(ErrorKind::communication, {"a transfer between ranks cannot complete", seen},
                       [&] { gather_until_it_fails(*communicator); });
          expect_error(ErrorKind::communication, {seen}, [&] { communicator->wait(); });
        });
}

// As the liveness channel does where a rank has died.
TEST(NcclFaults, AnotherThreadCanEndTheWait) {
  run_on_devices({.ranks = 2}, [](const auto& host, const auto& stream) {
    const auto communicator = make_nccl_communicator(host, stream, patient);
    if (host->rank() == 1) {  // says nothing, and waits until the other one has given up
      while (true) {
        try {
          barrier(*host);
        } catch (const Error&) {
          communicator->abandon();
          return;
        }
      }
    }
    std::thread watch([&] {
      std::this_thread::sleep_for(20ms);
      communicator->abandon();
    });
    expect_error(ErrorKind::communication, {"this rank was abandoned"}, [&] {
      const Vector vector(1000);
      const Communicator::Receive receive{1, vector.parts[0].front()};
      communicator->transfer({}, {&receive, 1});
      communicator->wait();
    });
    watch.join();
  });
}

TEST(NcclFaults, AFailedJobEndsItsThreadAndThoseOfTheOthers) {
  nccl_double::reset({.failing = 0, .groups_before = 5, .all_learn = true});
  cuda::emulation::set_devices(2);
  std::vector<std::unique_ptr<Communicator>> hosts = make_thread_communicators(2);
  std::vector<std::thread> owners;
  for (std::unique_ptr<Communicator>& host : hosts)
    owners.emplace_back([&] {
      const int device = host->rank();
      CommunicationThread thread([&]() -> std::unique_ptr<Communicator> {
        return make_device_communicator(std::move(host), device, DeviceLinks::nccl, {}, patient);
      });
      expect_error(ErrorKind::communication, {"NCCL failed"}, [&] {
        thread.run([](Communicator& communicator) {
          const Vector vector(1000);
          const Communicator::Send send{1 - communicator.rank(), vector.parts[0].front()};
          const Communicator::Receive receive{1 - communicator.rank(), vector.parts[1].front()};
          while (true) communicator.transfer({&send, 1}, {&receive, 1});
        });
      });
    });
  for (std::thread& owner : owners) owner.join();
  EXPECT_EQ(nccl_double::violations(), std::vector<std::string>());
  cuda::emulation::set_devices(1);
}

TEST(NcclFaults, BothSidesRefuseAMessageOfAnotherSize) {
  for (const size_t sent : {3u, 5u})
    run_on_devices({.ranks = 2}, [&](const auto& host, const auto& stream) {
      const auto communicator = make_nccl_communicator(host, stream, patient);
      const Vector vector(sent);
      const Communicator::Send send{1, vector.parts[0].front()};
      const Communicator::Receive receive{0, {static_cast<std::byte*>(vector.memory.data()), 4}};
      const std::vector<std::string> texts = {"another size", "rank 1, message from rank 0",
                                              fmt::format("{} bytes", sent), "4 bytes"};
      expect_error(ErrorKind::communication, texts, [&] {
        if (host->rank() == 0) communicator->transfer({&send, 1}, {});
        else communicator->transfer({}, {&receive, 1});
      });
      expect_error(ErrorKind::communication, {"wrong size"}, [&] { communicator->wait(); });
    });
}

/// Of two ranks that keep all rules but those that `body` breaks.
std::vector<std::string> violations_of(const std::function<void(ncclComm_t, cudaStream_t, int rank)>& body) {
  nccl_double::reset();
  cuda::emulation::set_devices(2);
  ncclUniqueId id;
  EXPECT_EQ(ncclGetUniqueId(&id), ncclSuccess);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank)
    threads.emplace_back([&, rank] {
      cuda::select(rank);
      const std::unique_ptr<cuda::Queue> queue = cuda::make_queue();
      ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
      config.blocking = 0;
      ncclComm_t communicator = nullptr;
      EXPECT_EQ(ncclCommInitRankConfig(&communicator, 2, id, rank, &config), ncclInProgress);
      for (ncclResult_t state = ncclInProgress; state != ncclSuccess;) ncclCommGetAsyncError(communicator, &state);
      body(communicator, static_cast<cudaStream_t>(cuda::handle(*queue)), rank);
      ncclCommAbort(communicator);
    });
  for (std::thread& thread : threads) thread.join();
  cuda::emulation::set_devices(1);
  return nccl_double::violations();
}

TEST(NcclDouble, FindsNothingWhereRulesAreKept) {
  EXPECT_EQ(violations_of([](ncclComm_t, cudaStream_t, int) {}), std::vector<std::string>());
}

TEST(NcclDouble, FindsMessagesOfOtherSizes) {
  const auto violations = violations_of([](ncclComm_t communicator, cudaStream_t stream, int rank) {
    const Buffer memory(8, "test", Place::device);
    ncclGroupStart();
    if (rank == 0) ncclSend(memory.data(), 8, ncclUint8, 1, communicator, stream);
    else ncclRecv(memory.data(), 4, ncclUint8, 0, communicator, stream);
    EXPECT_EQ(ncclGroupEnd(), ncclInProgress);
    for (ncclResult_t state = ncclInProgress; state != ncclSuccess;) ncclCommGetAsyncError(communicator, &state);
    auto& queue = *static_cast<cuda::Queue*>(static_cast<void*>(stream));
    for (int look = 0; look < 200; ++look) {
      EXPECT_FALSE(queue.done()) << "it waits for ever";
      std::this_thread::sleep_for(100us);
    }
    ncclCommAbort(communicator);
    queue.wait();
  });
  ASSERT_EQ(violations.size(), 3u);  // and two communicators that were aborted twice
  EXPECT_EQ(violations.front(), "rank 1 receives 4 bytes where rank 0 sends 8");
}

TEST(NcclDouble, FindsMemoryAndCallsThatAreOutOfPlace) {
  const auto violations = violations_of([](ncclComm_t communicator, cudaStream_t stream, int rank) {
    if (rank == 1) return;
    const Buffer memory(8, "test", Place::device);
    cuda::select(1);
    const Buffer elsewhere(8, "test", Place::device);
    uint64_t on_host = 0;
    ncclSend(&on_host, 8, ncclUint8, 1, communicator, stream);
    ncclSend(elsewhere.data(), 8, ncclUint8, 1, communicator, stream);
    ncclSend(memory.data(), 8, ncclUint8, 0, communicator, stream);
    ncclSend(memory.data(), 8, ncclFloat, 1, communicator, stream);
    ncclGroupEnd();
    ncclSend(memory.data(), 8, ncclUint8, 1, communicator, stream);
    ncclSend(memory.data(), 8, ncclUint8, 1, communicator, stream);  // before NCCL has dealt with the first
  });
  const std::vector<std::string> expected = {"ncclSend on rank 0: memory of device -1 on device 0",
                                             "ncclSend on rank 0: memory of device 1 on device 0",
                                             "ncclSend on rank 0: to itself",
                                             "ncclSend on rank 0: not bytes",
                                             "ncclGroupEnd without ncclGroupStart",
                                             "ncclSend on rank 0, where something is in progress"};
  EXPECT_EQ(violations, expected);
}

TEST(NcclDouble, FindsEndsThatAreNone) {
  const auto violations = violations_of([](ncclComm_t communicator, cudaStream_t, int rank) {
    if (rank == 0) ncclCommDestroy(communicator);
  });
  const std::vector<std::string> expected = {"rank 0 destroyed before it was finalized",
                                             "ncclCommAbort of what is gone"};
  EXPECT_EQ(violations, expected);
}

}  // namespace
}  // namespace nibble
