#include "comm/communication_thread.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "comm/collectives.hpp"
#include "comm/thread_communicator.hpp"
#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

using namespace std::chrono_literals;

TEST(CommunicationThread, RunsJobsInTheOrderInWhichTheyWereSubmitted) {
  CommunicationThread thread(make_self_communicator);
  std::vector<int> order;
  CommunicationThread::Ticket last = -1;
  for (int job = 0; job < 100; ++job) {
    const CommunicationThread::Ticket ticket = thread.submit([&order, job](Communicator&) { order.push_back(job); });
    EXPECT_EQ(ticket, last + 1);
    last = ticket;
  }
  thread.wait(last);
  for (int job = 0; job < 100; ++job) EXPECT_EQ(order.at(static_cast<size_t>(job)), job);
  thread.wait(0);
}

TEST(CommunicationThread, WaitsForTheJobOfTheTicketOnly) {
  CommunicationThread thread(make_self_communicator);
  std::atomic<bool> go = false;
  const CommunicationThread::Ticket first = thread.submit([](Communicator&) {});
  thread.submit([&](Communicator&) {
    while (!go) std::this_thread::yield();
  });
  thread.wait(first);
  go = true;
}

TEST(CommunicationThread, ThrowsWhatTheFirstFailingJobThrewFromThenOn) {
  CommunicationThread thread(make_self_communicator);
  bool ran_behind = false;
  thread.run([](Communicator&) {});
  const CommunicationThread::Ticket bad = thread.submit([](Communicator&) { throw std::runtime_error("first"); });
  const CommunicationThread::Ticket behind = thread.submit([&](Communicator&) { ran_behind = true; });
  for (const CommunicationThread::Ticket ticket : {behind, bad, behind})
    EXPECT_THROW(thread.wait(ticket), std::runtime_error);
  EXPECT_THROW(thread.run([&](Communicator&) { ran_behind = true; }), std::runtime_error);
  EXPECT_FALSE(ran_behind);
}

TEST(CommunicationThread, ThrowsWhatTheMakerOfTheCommunicatorThrew) {
  const auto make = []() -> std::unique_ptr<Communicator> { throw std::runtime_error("no world"); };
  EXPECT_THROW(CommunicationThread thread(make), std::runtime_error);
}

TEST(CommunicationThread, FinishesWhatWasSubmittedBeforeItEnds) {
  std::atomic<int> done = 0;
  {
    CommunicationThread thread(make_self_communicator);
    for (int job = 0; job < 10; ++job)
      thread.submit([&](Communicator&) {
        std::this_thread::sleep_for(1ms);
        ++done;
      });
  }
  EXPECT_EQ(done, 10);
}

TEST(CommunicationThread, CountsOnlyRealWaiting) {
  CommunicationThread thread(make_self_communicator);
  const CommunicationThread::Ticket hidden = thread.submit([](Communicator&) { std::this_thread::sleep_for(5ms); });
  while (thread.totals().seconds_busy == 0) std::this_thread::sleep_for(1ms);
  thread.wait(hidden);
  EXPECT_EQ(thread.totals().seconds_waited, 0);
  thread.run([](Communicator&) { std::this_thread::sleep_for(20ms); });
  EXPECT_GT(thread.totals().seconds_waited, 0.01);
  EXPECT_GE(thread.totals().seconds_busy, 0.025);
}

/// Two ranks of threads, each with a communication thread.
struct TwoRanks {
  std::vector<std::unique_ptr<Communicator>> world = make_thread_communicators(2);
  std::unique_ptr<CommunicationThread> rank(size_t r) {
    return std::make_unique<CommunicationThread>([&] { return std::move(world[r]); });
  }
};

TEST(CommunicationThread, KnowsItsRankAndCountsBytes) {
  TwoRanks ranks;
  const auto first = ranks.rank(0), second = ranks.rank(1);
  EXPECT_EQ(second->rank(), 1);
  EXPECT_EQ(second->size(), 2);
  first->submit(barrier);
  second->run(barrier);
  first->submit(barrier);
  second->run(barrier);
  EXPECT_EQ(second->totals().bytes_sent, 2u);
}

TEST(CommunicationThread, FailsTheOtherRanksWithItsJob) {
  TwoRanks ranks;
  const auto first = ranks.rank(0), second = ranks.rank(1);
  const CommunicationThread::Ticket waiting = second->submit(barrier);
  EXPECT_THROW(first->run([](Communicator&) { throw std::runtime_error("no disk"); }), std::runtime_error);
  expect_error(ErrorKind::communication, {"rank 0 was abandoned"}, [&] { second->wait(waiting); });
}

TEST(CommunicationThread, WaitsForNobodyWhenAnExceptionEndsItsOwner) {
  TwoRanks ranks;
  const auto second = ranks.rank(1);
  const auto owner = [&] {
    const auto first = ranks.rank(0);
    first->submit(barrier);  // which the other rank never calls
    throw std::runtime_error("bad data");
  };
  EXPECT_THROW(owner(), std::runtime_error);
  expect_error(ErrorKind::communication, {"rank 0 was abandoned"}, [&] { second->run(barrier); });
}

}  // namespace
}  // namespace nibble
