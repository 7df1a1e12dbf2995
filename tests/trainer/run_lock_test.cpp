#include "trainer/run_lock.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include "tensor/files.hpp"
#include "tests/tensor/temporary_directory.hpp"

namespace nibble {
namespace {

class RunLockTest : public TemporaryDirectoryTest {};

TEST_F(RunLockTest, TheSecondIsRefusedWithTheNameOfTheFirst) {
  const RunLock first(directory_);
  const ErrorDetail error = error_of([&] { const RunLock second(directory_); });
  EXPECT_EQ(error.kind, ErrorKind::configuration);
  EXPECT_EQ(error.what, "another process is at work in the run's directory");
  EXPECT_TRUE(error.seen.starts_with("process " + std::to_string(getpid()) + " on ")) << error.seen;
}

TEST_F(RunLockTest, IsReleasedWithTheObject) {
  { const RunLock first(directory_); }
  const RunLock second(directory_);
}

TEST_F(RunLockTest, IsReleasedByAProcessThatIsKilled) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const RunLock lock(directory_);
    if (::write(ready[1], "x", 1) == 1) pause();
    _exit(1);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  const ErrorDetail error = error_of([&] { const RunLock lock(directory_); });
  EXPECT_TRUE(error.seen.starts_with("process " + std::to_string(child) + " on ")) << error.seen;
  kill(child, SIGKILL);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  close(ready[0]);
  close(ready[1]);
  const RunLock lock(directory_);
  const std::string holder = read_file(directory_ / ".lock", ErrorKind::data);
  EXPECT_TRUE(holder.starts_with("process " + std::to_string(getpid()) + " on ")) << holder;
}

TEST_F(RunLockTest, AFolderThatIsMissingIsRefused) {
  EXPECT_EQ(error_of([&] { const RunLock lock(directory_ / "none"); }).kind, ErrorKind::resource);
}

}  // namespace
}  // namespace nibble
