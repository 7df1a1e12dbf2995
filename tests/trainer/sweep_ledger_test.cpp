#include "trainer/sweep_ledger.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <random>
#include <set>
#include <thread>

#include "expect_error.hpp"
#include "tensor/files.hpp"
#include "tests/tensor/temporary_directory.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

/// A host of its own: its clock, and what its caches show of the shared file system.
struct Host {
  double clock = 0;
  bool old_listings = false;                 ///< folders look as they did when they were first asked for
  int blind_reads = 0;                       ///< so many reads of files see nothing
  std::map<fs::path, std::string> frozen{};  ///< files that look as they did
  std::map<fs::path, std::vector<fs::path>> listings{};

  LedgerOptions options() {
    const LedgerSystem machine = machine_of_ledger();
    return {.system = {.now = [this] { return clock; },
                       .list =
                           [=, this](const fs::path& path) {
                             if (!old_listings || !listings.contains(path)) listings[path] = machine.list(path);
                             return listings[path];
                           },
                       .read = [=, this](const fs::path& path) -> std::optional<std::string> {
                         if (blind_reads > 0) return --blind_reads, std::nullopt;
                         if (frozen.contains(path)) return frozen[path];
                         return machine.read(path);
                       }}};
  }
};

const Error diverged({.kind = ErrorKind::numerics, .what = "the run diverged"});

class SweepLedgerTest : public TemporaryDirectoryTest {
 protected:
  /// As if another machine had written them: whether its process lives cannot be told here.
  void move_elsewhere(const std::string& task) {
    for (const std::string& name : names_in(directory_ / task)) {
      const fs::path path = directory_ / task / name;
      if (name.ends_with(".progress")) continue;
      std::string text = read_file(path, ErrorKind::data);
      const size_t host = text.find("\"host\":\"");
      ASSERT_NE(host, std::string::npos);
      write(path, text.insert(host + 8, "elsewhere-"));
    }
  }
};

TEST_F(SweepLedgerTest, ATaskIsClaimedOnceAndEndsOnce) {
  SweepLedger one(directory_), other(directory_);
  EXPECT_FALSE(one.look("a"));
  {
    const auto claim = one.claim("a");
    ASSERT_TRUE(claim);
    EXPECT_FALSE(other.claim("a"));
    EXPECT_TRUE(other.claim("b"));
    claim->renew();
    claim->finish(1.5);
  }
  const std::optional<LedgerEntry> last = other.look("a");
  ASSERT_TRUE(last);
  EXPECT_EQ(last->kind, LedgerEntry::Kind::finished);
  EXPECT_EQ(last->number, 3);
  EXPECT_EQ(last->claim, 1);
  EXPECT_EQ(last->loss, 1.5);
  EXPECT_TRUE(other.has_ended(*last));
  EXPECT_FALSE(one.claim("a"));
  EXPECT_FALSE(other.claim("a"));
}

TEST_F(SweepLedgerTest, WhatIsGivenBackOrFailedOnceIsTriedAgain) {
  SweepLedger ledger(directory_);
  ledger.claim("a").reset();
  EXPECT_EQ(ledger.look("a")->kind, LedgerEntry::Kind::released);
  ledger.claim("a")->fail(diverged);
  EXPECT_FALSE(ledger.has_ended(*ledger.look("a")));
  const auto second = ledger.claim("a");
  ASSERT_TRUE(second);
  EXPECT_EQ(second->failures(), 1);
  second->fail(diverged);
  EXPECT_TRUE(ledger.has_ended(*ledger.look("a")));
  EXPECT_EQ(ledger.look("a")->message, diverged.what());
  EXPECT_EQ(ledger.look("a")->exit_code, 6);
  EXPECT_FALSE(ledger.claim("a"));
}

TEST_F(SweepLedgerTest, AKilledProcessIsFollowedAtOnce) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    SweepLedger ledger(directory_);
    const auto claim = ledger.claim("a");
    if (::write(ready[1], "x", 1) == 1) pause();
    _exit(1);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  SweepLedger ledger(directory_);
  EXPECT_FALSE(ledger.claim("a"));
  kill(child, SIGKILL);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  EXPECT_TRUE(ledger.is_orphaned(*ledger.look("a")));
  EXPECT_TRUE(ledger.claim("a"));
}

TEST_F(SweepLedgerTest, ProgressKeepsAClaimWhateverTheClocksSay) {
  Host near{.clock = 1000}, far{.clock = 1600};  // ten minutes apart, and each other's times mean nothing
  SweepLedger holder(directory_, far.options()), observer(directory_, near.options());
  const auto claim = holder.claim("a");
  move_elsewhere("a");
  EXPECT_FALSE(observer.claim("a"));
  near.clock += 599;  // a task that starts has more time
  EXPECT_FALSE(observer.claim("a"));
  for (int64_t step = 1; step <= 10; ++step) {
    far.clock += 5;
    claim->progress({.step = step, .loss = 2.0, .seconds_left = 7.0});
    near.clock += 119;
    EXPECT_FALSE(observer.claim("a")) << step;
  }
  const std::optional<LedgerProgress> progress = observer.progress_of("a", *observer.look("a"));
  ASSERT_TRUE(progress);
  EXPECT_EQ(progress->step, 10);
  EXPECT_EQ(progress->seconds_left, 7.0);
  far.clock += 10'000;  // the holder's own clock does not count
  EXPECT_FALSE(observer.claim("a"));
  near.clock += 121;
  const auto follower = observer.claim("a");
  ASSERT_TRUE(follower);
  EXPECT_EQ(observer.look("a")->number, 2);
}

TEST_F(SweepLedgerTest, SlowStepsHaveALongerLease) {
  Host near{.clock = 0}, far{.clock = 600};
  SweepLedger holder(directory_, far.options()), observer(directory_, near.options());
  const auto claim = holder.claim("a");
  move_elsewhere("a");
  for (int i = 0; i < 3; ++i) {
    far.clock += 100;
    claim->progress({.step = i});
  }
  EXPECT_FALSE(observer.claim("a"));
  near.clock += 999;
  EXPECT_FALSE(observer.claim("a"));
  near.clock += 2;
  EXPECT_TRUE(observer.claim("a"));
}

TEST_F(SweepLedgerTest, WhoWasFollowedWritesNothingMore) {
  Host near, far;
  SweepLedger holder(directory_, far.options()), observer(directory_, near.options());
  const auto claim = holder.claim("a");
  claim->renew();
  move_elsewhere("a");
  EXPECT_FALSE(observer.claim("a"));
  near.clock += 601;
  const auto follower = observer.claim("a");
  ASSERT_TRUE(follower);
  far.blind_reads = 1000;  // its caches show nothing of that
  for (int i = 0; i < 2; ++i) expect_error(ErrorKind::configuration, {"taken over"}, [&] { claim->renew(); });
  EXPECT_TRUE(claim->lost());
  expect_error(ErrorKind::configuration, {"taken over"}, [&] { claim->finish({}); });
  follower->renew();
  follower->finish(2.5);
  EXPECT_EQ(observer.look("a")->number, 5);
  expect_error(ErrorKind::configuration, {"taken over"}, [&] { claim->fail(diverged); });
}

TEST_F(SweepLedgerTest, WhoSeesTooLittleOnlyLosesTime) {
  Host blind{.old_listings = true};
  SweepLedger stale(directory_, blind.options()), other(directory_);
  EXPECT_FALSE(stale.look("a"));  // the empty folder stays in its cache
  {
    const auto claim = other.claim("a");
    claim->renew();
    blind.blind_reads = 2;
    EXPECT_FALSE(stale.claim("a"));  // believes that nobody has it
    claim->finish({});
  }
  blind.blind_reads = 2;
  EXPECT_FALSE(stale.claim("a"));
  const fs::path first = directory_ / "b/00000001";
  other.claim("b").reset();  // entries 1 and 2
  const auto second = other.claim("b");
  ASSERT_TRUE(second);
  blind.frozen[first] = read_file(first, ErrorKind::data);
  // It sees the release and not the claim behind it.
  EXPECT_FALSE([&] {
    Host partial;
    LedgerOptions options = partial.options();
    const auto machine = options.system.read;
    options.system.read = [=](const fs::path& path) {
      return path.filename() == "00000003" ? std::nullopt : machine(path);
    };
    options.system.list = [](const fs::path&) { return std::vector<fs::path>(); };
    SweepLedger ledger(directory_, options);
    EXPECT_EQ(ledger.look("b")->kind, LedgerEntry::Kind::released);
    return ledger.claim("b") != nullptr;
  }());
  second->finish({});
}

TEST_F(SweepLedgerTest, ManyProcessesWithBadCachesDoEachTaskOnce) {
  constexpr int tasks = 12, workers = 6;
  std::atomic<int> done{0};
  std::array<std::atomic<int>, tasks> times{};
  std::vector<std::thread> threads;
  for (int worker = 0; worker < workers; ++worker)
    threads.emplace_back([&, worker] {
      Host host{.clock = 600.0 * worker, .old_listings = worker % 2 == 0};
      SweepLedger ledger(directory_, host.options());
      std::mt19937 random(static_cast<unsigned>(worker));
      for (int turn = 0; done < tasks && turn < 20'000; ++turn) {
        host.blind_reads = static_cast<int>(random() % 3);
        const auto task = random() % tasks;
        const auto claim = ledger.claim("task" + std::to_string(task));
        if (!claim) continue;
        if (random() % 4 == 0) continue;  // given back
        claim->renew();
        claim->finish({});
        ++times[task];
        ++done;
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const auto& count : times) EXPECT_EQ(count, 1);
}

TEST_F(SweepLedgerTest, TheFirstSaysWhatTheSweepIs) {
  SweepLedger one(directory_), other(directory_);
  EXPECT_FALSE(one.agreed());
  EXPECT_EQ(one.agree_on("first"), "first");
  EXPECT_EQ(other.agree_on("second"), "first");
  EXPECT_EQ(other.agreed(), "first");
}

TEST_F(SweepLedgerTest, DamagedEntriesAreRefused) {
  SweepLedger ledger(directory_);
  ledger.claim("a").reset();
  write(directory_ / "a/00000003", "{\"kind\": \"claimed\"}");
  expect_error(ErrorKind::resource, {"00000003"}, [&] { ledger.look("a"); });
}

}  // namespace
}  // namespace nibble
