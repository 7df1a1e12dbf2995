#include "trainer/run_lock.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <functional>
#include <limits>

#include "tensor/files.hpp"
#include "tests/tensor/temporary_directory.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""h;

/// Waiting for heartbeats of this length would be noticed.
const RunLockOptions at_once = {.heartbeat = 1h};

RunLockHolder foreign() {
  RunLockHolder holder = this_run_lock_holder();
  holder.host = "elsewhere";
  holder.boot = "another";
  holder.job = "4711";
  return holder;
}

/// The variable while the object lives.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Environment() { unsetenv(name_); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
};

class RunLockTest : public TemporaryDirectoryTest {
 protected:
  fs::path lock_path(int number) const { return directory_ / (".lock.0000000" + std::to_string(number)); }
  RunLockHolder holder_of(int number) const {
    return parse_run_lock_holder(read_file(lock_path(number), ErrorKind::data)).value();
  }
  /// A child that has taken the lock and waits.
  pid_t start_holder() {
    int ready[2];
    EXPECT_EQ(pipe(ready), 0);
    const pid_t child = fork();
    if (child == 0) {
      const RunLock lock(directory_);
      if (::write(ready[1], "x", 1) == 1) pause();
      _exit(1);
    }
    char byte = 0;
    EXPECT_EQ(::read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    return child;
  }
};

TEST_F(RunLockTest, TheSecondIsRefusedWithTheNameOfTheFirst) {
  const RunLock first(directory_, at_once);
  const ErrorDetail error = error_of([&] { const RunLock second(directory_, at_once); });
  EXPECT_EQ(error.kind, ErrorKind::configuration);
  EXPECT_EQ(error.what, "another process is at work in the run's directory");
  EXPECT_TRUE(error.seen.starts_with("process " + std::to_string(getpid()) + " on ")) << error.seen;
  first.still_held();
}

TEST_F(RunLockTest, IsReleasedWithTheObject) {
  for (int number = 1; number <= 3; ++number) {
    const RunLock lock(directory_, at_once);
    EXPECT_FALSE(holder_of(number).released);
    EXPECT_EQ(names_in(directory_), std::vector<std::string>{lock_path(number).filename().string()});
    lock.still_held();
  }
  EXPECT_TRUE(holder_of(3).released);
}

TEST_F(RunLockTest, AProcessThatWasKilledIsFollowedAtOnce) {
  const pid_t child = start_holder();
  const ErrorDetail error = error_of([&] { const RunLock lock(directory_, at_once); });
  EXPECT_TRUE(error.seen.starts_with("process " + std::to_string(child) + " on ")) << error.seen;
  kill(child, SIGKILL);
  siginfo_t ended;
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOWAIT), 0);
  { const RunLock lock(directory_, at_once); }  // its parent has not yet asked how it ended
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  const pid_t second = start_holder();
  kill(second, SIGKILL);
  ASSERT_EQ(waitpid(second, nullptr, 0), second);
  const RunLock lock(directory_, at_once);
  EXPECT_EQ(holder_of(4).process, getpid());
}

TEST_F(RunLockTest, AnotherProcessThatGotTheNumberOfTheHolderIsNotTheHolder) {
  RunLockHolder earlier = this_run_lock_holder();
  earlier.process_start -= 1;
  write(lock_path(1), to_text(earlier));
  const RunLock lock(directory_, at_once);
  lock.still_held();
}

TEST_F(RunLockTest, AForeignHolderWhoseHeartStoppedIsFollowed) {
  write(lock_path(1), to_text(foreign()));
  std::string message;
  const RunLock lock(directory_, {.heartbeat = 20ms, .message = [&](const std::string& text) { message = text; }});
  EXPECT_NE(message.find("on elsewhere, job 4711, since "), std::string::npos) << message;
  EXPECT_EQ(names_in(directory_), std::vector<std::string>{".lock.00000002"});
}

TEST_F(RunLockTest, AForeignHolderThatLivesIsRefused) {
  RunLockHolder holder = foreign();
  for (const bool readable : {true, false}) {
    const auto beat = [&] {
      ++holder.heartbeats;
      write(lock_path(1), readable ? to_text(holder) : std::to_string(holder.heartbeats));
    };
    beat();
    std::atomic<bool> ends{false};
    std::thread heart([&] {
      while (!ends) {
        std::this_thread::sleep_for(5ms);
        beat();
      }
    });
    const ErrorDetail error = error_of([&] { const RunLock lock(directory_, {.heartbeat = 1000ms}); });
    ends = true;
    heart.join();
    EXPECT_EQ(error.kind, ErrorKind::configuration);
    EXPECT_EQ(error.what, "another process is at work in the run's directory");
    // A reader may also meet the file while it is being written.
    EXPECT_TRUE(error.seen.find("on elsewhere, job 4711") != std::string::npos ||
                error.seen.find("does not say who") != std::string::npos)
        << error.seen;
    EXPECT_NE(error.next.find("3 s after its end"), std::string::npos) << error.next;
  }
}

TEST_F(RunLockTest, AForeignHolderThatReleasesIsFollowed) {
  RunLockHolder holder = foreign();
  write(lock_path(1), to_text(holder));
  std::thread other([&] {
    std::this_thread::sleep_for(100ms);
    holder.released = true;
    write(directory_ / "released", to_text(holder));
    fs::rename(directory_ / "released", lock_path(1));
  });
  const RunLock lock(directory_, {.heartbeat = 2000ms});
  other.join();
  lock.still_held();
}

TEST_F(RunLockTest, AJobThatSlurmHasStartedAgainFollowsItself) {
  const Environment job("SLURM_JOB_ID", "4711"), restarts("SLURM_RESTART_COUNT", "2");
  RunLockHolder before = foreign();
  before.job_restarts = 1;
  write(lock_path(1), to_text(before));
  const RunLock lock(directory_, at_once);
  EXPECT_EQ(holder_of(2).job, "4711");
  EXPECT_EQ(holder_of(2).job_restarts, 2);
}

TEST_F(RunLockTest, WhoLivesIsToldOnlyWhereItCanBe) {
  const RunLockHolder self = this_run_lock_holder();
  EXPECT_EQ(life_of(self, self), Life::alive);
  const auto life = [&](const std::function<void(RunLockHolder&)>& change) {
    RunLockHolder holder = self;
    change(holder);
    return life_of(holder, self);
  };
  EXPECT_EQ(life([](RunLockHolder& holder) { holder.released = true; }), Life::gone);
  EXPECT_EQ(life([](RunLockHolder& holder) { holder.process = std::numeric_limits<pid_t>::max(); }), Life::gone);
  EXPECT_EQ(life([](RunLockHolder& holder) { holder.host = "elsewhere"; }), Life::unknown);
  EXPECT_EQ(life([](RunLockHolder& holder) { holder.boot = "another"; }), Life::unknown);
  EXPECT_EQ(life([](RunLockHolder& holder) { holder.pid_namespace = "another"; }), Life::unknown);

  RunLockHolder other = foreign(), mine = self;
  mine.job = "4711";
  EXPECT_EQ(life_of(other, mine), Life::unknown);  // two programs of one job
  mine.job_restarts = 1;
  EXPECT_EQ(life_of(other, mine), Life::gone);
  mine.job = "4712";
  EXPECT_EQ(life_of(other, mine), Life::unknown);
}

TEST_F(RunLockTest, AHolderThatWasFollowedMayNotCommit) {
  const std::string other = to_text(foreign());
  {
    const RunLock lock(directory_, at_once);
    write(lock_path(2), other);
    const ErrorDetail error = error_of([&] { lock.still_held(); });
    EXPECT_EQ(error.kind, ErrorKind::configuration);
    EXPECT_EQ(error.what, "another process has taken over the run's directory");
    EXPECT_NE(error.seen.find("on elsewhere"), std::string::npos);
    EXPECT_NE(error.allowed.find(std::to_string(getpid())), std::string::npos);
    fs::remove(lock_path(2));
    lock.still_held();
    write(lock_path(1), other);
    EXPECT_NE(error_of([&] { lock.still_held(); }).seen.find("on elsewhere"), std::string::npos);
  }
  EXPECT_EQ(read_file(lock_path(1), ErrorKind::data), other);  // nor does it release what is not its own
  fs::remove(lock_path(1));
  const RunLock lock(directory_, at_once);
  fs::remove(lock_path(1));
  EXPECT_EQ(error_of([&] { lock.still_held(); }).seen, "the lock was removed or replaced");
}

TEST_F(RunLockTest, TheHolderShowsThatItLives) {
  const RunLock lock(directory_, {.heartbeat = 5ms});
  while (holder_of(1).heartbeats < 3) std::this_thread::sleep_for(1ms);
  lock.still_held();
  EXPECT_EQ(fs::file_size(lock_path(1)), to_text(foreign()).size());
}

TEST_F(RunLockTest, GarbageIsAnUnknownHolder) {
  std::string long_one(100'000, 'x');
  for (const std::string& garbage : {std::string(), std::string("\0\xff", 2), std::string("{}"), long_one}) {
    write(lock_path(1), garbage);
    std::string message;
    {
      const RunLock lock(directory_, {.heartbeat = 4ms, .message = [&](const std::string& text) { message = text; }});
    }
    EXPECT_NE(message.find("an unknown process"), std::string::npos);
    fs::remove(lock_path(2));
  }
  for (const char* name :
       {".lock", ".lock.", ".lock.7", ".lock.-0000001", ".lock.99999999999999999999", "lock.00000009"})
    write(directory_ / name, "x");
  const RunLock lock(directory_, at_once);
  EXPECT_TRUE(fs::exists(lock_path(1)));
}

TEST_F(RunLockTest, OfManyThatFollowADeadHolderOneHasTheLock) {
  write(lock_path(1), to_text(foreign()));
  int answers[2], ends[2];
  ASSERT_EQ(pipe(answers), 0);
  ASSERT_EQ(pipe(ends), 0);
  constexpr int many = 8;
  std::vector<pid_t> children;
  for (int i = 0; i < many; ++i) {
    children.push_back(fork());
    if (children.back() != 0) continue;
    close(ends[1]);
    char byte = 'n';
    try {
      const RunLock lock(directory_, {.heartbeat = 40ms});
      lock.still_held();
      byte = 'y';
      if (::write(answers[1], &byte, 1) == 1 && ::read(ends[0], &byte, 1) == 0) _exit(0);
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::configuration && ::write(answers[1], &byte, 1) == 1) _exit(0);
    }
    _exit(1);
  }
  int holders = 0;
  for (int i = 0; i < many; ++i) {
    char byte = 0;
    ASSERT_EQ(::read(answers[0], &byte, 1), 1);
    holders += byte == 'y';
  }
  EXPECT_EQ(holders, 1);
  for (const int end : {ends[1], ends[0], answers[0], answers[1]}) close(end);
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
}

TEST_F(RunLockTest, AFolderThatIsMissingIsRefused) {
  EXPECT_EQ(error_of([&] { const RunLock lock(directory_ / "none"); }).kind, ErrorKind::resource);
}

}  // namespace
}  // namespace nibble
