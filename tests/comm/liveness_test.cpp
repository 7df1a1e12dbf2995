// The watch over ranks: threads of this process, joined by loopback, that die, fall silent, fail and leave.
#include "comm/liveness.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <mutex>
#include <thread>

#include "comm/rendezvous.hpp"
#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds meeting_time(5000);

/// What a rank of the watch did.
struct Watched {
  std::string said;
  int exit_code = -1;  ///< -1: it did not end
};

/// Ranks that meet over loopback. A test ends each of them, by its death, failure or goodbye.
class LivenessTest : public testing::Test {
 protected:
  void start(const std::vector<std::string>& hosts, milliseconds deadline = milliseconds(20000)) {
    const int size = static_cast<int>(hosts.size());
    Rendezvous rendezvous;
    std::vector<std::future<MessageConnection>> joining;
    for (int rank = 1; rank < size; ++rank)
      joining.push_back(
          std::async(std::launch::async, [&, rank] { return join(rendezvous.invitation(), rank, meeting_time); }));
    std::vector<MessageConnection> accepted = rendezvous.accept(size, meeting_time);
    watched_.resize(hosts.size());
    for (int rank = 0; rank < size; ++rank) {
      std::vector<MessageConnection> connections;
      if (rank == 0) connections = std::move(accepted);
      else connections.push_back(joining[static_cast<size_t>(rank) - 1].get());
      Watched& watched = watched_[static_cast<size_t>(rank)];
      LivenessOptions options;
      options.beat = deadline / 20;
      options.deadline = deadline;
      options.say = [this, &watched](const std::string& message) {
        const std::lock_guard lock(mutex_);
        watched.said += message;
      };
      options.end = [this, &watched](int exit_code) {
        const std::lock_guard lock(mutex_);
        watched.exit_code = exit_code;
      };
      ranks_.push_back(std::make_unique<Liveness>(rank, hosts, std::move(connections), options));
    }
  }

  Liveness& rank(size_t number) { return *ranks_[number]; }
  void die(size_t number) { ranks_[number].reset(); }

  /// Waits until the watch of these ranks has ended them.
  void wait_for_end_of(const std::vector<size_t>& numbers) {
    constexpr milliseconds pause(10), enough(30000);
    for (milliseconds waited(0); waited < enough; waited += pause) {
      const bool all = std::all_of(numbers.begin(), numbers.end(), [&](size_t n) { return of(n).exit_code != -1; });
      if (all) return;
      std::this_thread::sleep_for(pause);
    }
    FAIL() << "the ranks were not ended";
  }

  Watched of(size_t number) {
    const std::lock_guard lock(mutex_);
    return watched_[number];
  }

  /// What all of them said, which should be one message.
  std::string said() {
    std::string all;
    for (size_t n = 0; n < watched_.size(); ++n) all += of(n).said;
    return all;
  }

  std::mutex mutex_;
  std::vector<Watched> watched_;
  std::vector<std::unique_ptr<Liveness>> ranks_;
};

/// For the beats to carry a rank's place to the others.
void let_news_spread() { std::this_thread::sleep_for(milliseconds(400)); }

TEST_F(LivenessTest, ADeadRankEndsTheOthersWithOneMessage) {
  start({"host0", "host1", "host2"}, milliseconds(2000));
  rank(2).at(213, "backward pass");
  let_news_spread();
  die(2);
  wait_for_end_of({0, 1});
  EXPECT_EQ(of(0).exit_code, 5);
  EXPECT_EQ(of(1).exit_code, 5);
  EXPECT_EQ(of(1).said, "");
  EXPECT_EQ(of(0).said.find("communication error: rank 2 on host2 died (step 213, backward pass)"), 0) << of(0).said;
  EXPECT_NE(of(0).said.find("--resume"), std::string::npos);
}

TEST_F(LivenessTest, WithoutRankZeroAnotherSpeaks) {
  start({"host0", "host1", "host2"});
  die(0);
  wait_for_end_of({1, 2});
  EXPECT_NE(of(1).said.find("rank 0 on host0 died (start)"), std::string::npos) << of(1).said;
  EXPECT_EQ(of(2).said, "");
  EXPECT_EQ(of(2).exit_code, 5);
}

TEST_F(LivenessTest, TheSpeakerOfASilentHostIsElsewhere) {
  EXPECT_EQ(speaker_without_first({"a", "a", "b", "b"}, false), 1);
  EXPECT_EQ(speaker_without_first({"a", "a", "b", "b"}, true), 2);
  EXPECT_EQ(speaker_without_first({"a", "a"}, true), 1);
}

TEST_F(LivenessTest, AFailureEndsAllWithItsCodeAndNamesTheRank) {
  start({"host0", "host1", "host2"});
  rank(1).fail(3, "data error: the token file is broken");
  wait_for_end_of({0, 1, 2});
  EXPECT_EQ(said(), "rank 1 on host1: data error: the token file is broken");
  for (const size_t n : {0, 1, 2}) EXPECT_EQ(of(n).exit_code, 3);
}

TEST_F(LivenessTest, TheSameFailureEverywhereIsSaidOnceAndNamesNobody) {
  start({"host0", "host1", "host2"});
  std::vector<std::thread> threads;
  for (const size_t n : {2, 0, 1})
    threads.emplace_back([&, n] { rank(n).fail(2, "configuration error: unknown setting"); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(said(), "configuration error: unknown setting");
  for (const size_t n : {0, 1, 2}) EXPECT_EQ(of(n).exit_code, 2);
}

TEST_F(LivenessTest, AnErrorOfCommunicationYieldsToItsReason) {
  start({"host0", "host1", "host2"});
  std::thread consequence([&] { rank(0).fail(5, "communication error: a transfer between ranks failed"); });
  std::this_thread::sleep_for(milliseconds(100));
  rank(2).fail(7, "resource error: the disk is full");
  consequence.join();
  wait_for_end_of({0, 1, 2});
  EXPECT_EQ(said(), "rank 2 on host2: resource error: the disk is full");
  EXPECT_EQ(of(0).exit_code, 7);
}

TEST_F(LivenessTest, AnErrorOfCommunicationYieldsToADeath) {
  start({"host0", "host1", "host2"});
  std::thread consequence([&] { rank(1).fail(5, "communication error: a transfer between ranks failed"); });
  std::this_thread::sleep_for(milliseconds(50));
  die(2);
  consequence.join();
  wait_for_end_of({0, 1});
  EXPECT_EQ(said().find("communication error: rank 2 on host2 died"), 0) << said();
}

TEST_F(LivenessTest, GoodbyeWaitsForAllAndIsNoDeath) {
  start({"host0", "host1", "host2"});
  std::atomic<int> gone = 0;
  std::vector<std::thread> threads;
  for (const size_t n : {0, 1})
    threads.emplace_back([&, n] {
      rank(n).goodbye();
      ++gone;
    });
  std::this_thread::sleep_for(milliseconds(300));
  EXPECT_EQ(gone, 0) << "rank 2 is still at work";
  rank(2).goodbye();
  for (std::thread& thread : threads) thread.join();
  for (const size_t n : {1, 0, 2}) die(n);
  EXPECT_EQ(said(), "");
  for (const size_t n : {0, 1, 2}) EXPECT_EQ(of(n).exit_code, -1);
}

TEST_F(LivenessTest, WhoDiesBeforeTheLastGoodbyeIsMissed) {
  start({"host0", "host1", "host2"});
  std::thread first([&] { rank(0).goodbye(); }), second([&] { rank(1).goodbye(); });
  std::this_thread::sleep_for(milliseconds(100));
  die(2);
  first.join();
  second.join();
  EXPECT_EQ(said().find("communication error: rank 2 on host2 died"), 0) << said();
}

/// Rank 0 is watched; rank 1 is a connection of which the test says what comes over it.
class ScriptedRankTest : public LivenessTest {
 protected:
  static constexpr milliseconds deadline{2000};

  void start_with_scripted_rank_1() {
    Rendezvous rendezvous;
    auto joining = std::async(std::launch::async, [&] { return join(rendezvous.invitation(), 1, meeting_time); });
    std::vector<MessageConnection> accepted = rendezvous.accept(2, meeting_time);
    scripted_ = std::make_unique<MessageConnection>(joining.get());
    watched_.resize(1);
    LivenessOptions options{.beat = deadline / 20, .deadline = deadline};
    options.say = [this](const std::string& message) {
      const std::lock_guard lock(mutex_);
      watched_[0].said += message;
    };
    options.end = [this](int exit_code) {
      const std::lock_guard lock(mutex_);
      watched_[0].exit_code = exit_code;
    };
    ranks_.push_back(
        std::make_unique<Liveness>(0, std::vector<std::string>{"host0", "host1"}, std::move(accepted), options));
  }

  std::unique_ptr<MessageConnection> scripted_;
};

TEST_F(ScriptedRankTest, SilenceIsNoticedAfterTheDeadlineAndNotBefore) {
  start_with_scripted_rank_1();
  const auto begin = std::chrono::steady_clock::now();
  for (int word = 0; word < 5; ++word) {
    scripted_->send("at 7 forward pass");
    std::this_thread::sleep_for(deadline / 4);
    ASSERT_EQ(of(0).exit_code, -1) << "silence of a quarter of the deadline is survived";
  }
  wait_for_end_of({0});
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 2 * deadline);
  EXPECT_EQ(of(0).said.find("communication error: rank 1 on host1 was not heard of for 2 s (step 7, forward pass)"), 0)
      << of(0).said;
  EXPECT_EQ(of(0).exit_code, 5);
}

TEST_F(ScriptedRankTest, WhoFailsAndThenDiesHasFailed) {
  start_with_scripted_rank_1();
  scripted_->send("failed 6 numerics error: the run diverged");
  scripted_.reset();
  wait_for_end_of({0});
  EXPECT_EQ(of(0).said, "rank 1 on host1: numerics error: the run diverged");
  EXPECT_EQ(of(0).exit_code, 6);
}

TEST(Rendezvous, TurnsAwayWhoDoesNotKnowTheSecret) {
  Rendezvous rendezvous;
  std::string forged = rendezvous.invitation();
  forged[0] = forged[0] == '0' ? '1' : '0';
  auto stranger = std::async(std::launch::async, [&] {
    expect_error(ErrorKind::communication, {"rank 1 does not reach rank 0", "port"},
                 [&] { join(forged, 1, milliseconds(200)); });
  });
  expect_error(ErrorKind::communication, {"did not reach rank 0", "ranks 1"},
               [&] { rendezvous.accept(2, milliseconds(500)); });
  stranger.get();
}

TEST(MessageConnection, CarriesMessagesWholeAndInOrder) {
  Rendezvous rendezvous;
  auto joining = std::async(std::launch::async, [&] { return join(rendezvous.invitation(), 1, meeting_time); });
  MessageConnection one = std::move(rendezvous.accept(2, meeting_time).front());
  MessageConnection other = joining.get();
  const std::string longest(64 * 1024, 'x');
  std::vector<std::string> sent = {"", "one", longest, "two\nlines"}, received;
  constexpr int rounds = 100;  // more than the kernel holds: sending must not block
  for (int round = 0; round < rounds; ++round)
    for (const std::string& text : sent) one.send(text);
  one.send(longest + "what is too long is cut");
  while (received.size() < rounds * sent.size() + 1) {
    one.exchange([](std::string_view) {});
    ASSERT_TRUE(other.exchange([&](std::string_view message) { received.emplace_back(message); }));
  }
  for (size_t i = 0; i + 1 < received.size(); ++i) ASSERT_EQ(received[i], sent[i % sent.size()]) << i;
  EXPECT_EQ(received.back(), longest);
}

TEST(MessageConnection, DeliversTheLastWordsOfWhoHasGone) {
  Rendezvous rendezvous;
  auto joining = std::async(std::launch::async, [&] { return join(rendezvous.invitation(), 1, meeting_time); });
  MessageConnection one = std::move(rendezvous.accept(2, meeting_time).front());
  {
    MessageConnection other = joining.get();
    other.send("farewell");
  }
  std::string last;
  while (one.exchange([&](std::string_view message) { last = message; })) std::this_thread::yield();
  EXPECT_EQ(last, "farewell");
}

}  // namespace
}  // namespace nibble
