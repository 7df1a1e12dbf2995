// What the machine leaves a process, read from a made-up /proc and /sys.
#include "trainer/memory.hpp"

#include <gtest/gtest.h>

#include "tensor/tensor.hpp"
#include "tests/tensor/temporary_directory.hpp"
#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

constexpr size_t mebibyte = size_t{1} << 20;

class AvailableMemoryTest : public TemporaryDirectoryTest {
 protected:
  void SetUp() override {
    TemporaryDirectoryTest::SetUp();
    put("proc/meminfo",
        "MemTotal:       16777216 kB\nMemFree:  1 kB\nMemAvailable:    8388608 kB\nHugePages_Total: 0\n");
  }
  void put(const std::string& name, const std::string& text) {
    std::filesystem::create_directories((directory_ / name).parent_path());
    write(directory_ / name, text);
  }
  /// A group of version 2 in bytes.
  void group(const std::string& path, const std::string& limit, size_t use, size_t inactive_file = 0) {
    put("sys/fs/cgroup" + path + "/memory.max", limit + "\n");
    put("sys/fs/cgroup" + path + "/memory.current", std::to_string(use) + "\n");
    put("sys/fs/cgroup" + path + "/memory.stat",
        "anon 5\nfile 6\nactive_file 0\ninactive_file " + std::to_string(inactive_file) + "\n");
  }
  void expect(size_t mebibytes, const std::string& limit) {
    const AvailableMemory available = available_memory(directory_);
    EXPECT_EQ(available.bytes, mebibytes * mebibyte);
    EXPECT_EQ(available.limit, (directory_ / limit).string());
  }
};

TEST_F(AvailableMemoryTest, WithoutGroups) { expect(8192, "proc/meminfo"); }

TEST_F(AvailableMemoryTest, AGroupWithALimit) {
  put("proc/self/cgroup", "0::/slice/job\n");
  group("/slice/job", std::to_string(4096 * mebibyte), 1024 * mebibyte, 512 * mebibyte);
  expect(4096 - 1024 + 512, "sys/fs/cgroup/slice/job/memory.max");
}

TEST_F(AvailableMemoryTest, AGroupAboveWithASmallerOne) {
  put("proc/self/cgroup", "0::/slice/job\n");
  group("/slice/job", "max", 0);
  group("/slice", std::to_string(2048 * mebibyte), 48 * mebibyte);
  expect(2000, "sys/fs/cgroup/slice/memory.max");
}

TEST_F(AvailableMemoryTest, ALimitAboveTheMachines) {
  put("proc/self/cgroup", "0::/\n");
  group("", std::to_string(65536 * mebibyte), 0);
  expect(8192, "proc/meminfo");
}

TEST_F(AvailableMemoryTest, AGroupThatIsFull) {
  put("proc/self/cgroup", "0::/job\n");
  group("/job", std::to_string(100 * mebibyte), 101 * mebibyte, 0);
  expect(0, "sys/fs/cgroup/job/memory.max");
}

// A container sees its own group as the root, under the path that it has outside.
TEST_F(AvailableMemoryTest, VersionOneInAContainer) {
  put("proc/self/cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n");
  put("sys/fs/cgroup/memory/memory.limit_in_bytes", std::to_string(1024 * mebibyte));
  put("sys/fs/cgroup/memory/memory.usage_in_bytes", std::to_string(256 * mebibyte));
  put("sys/fs/cgroup/memory/memory.stat",
      "cache 7\ntotal_inactive_file " + std::to_string(64 * mebibyte) + "\ntotal_active_file 0\n");
  expect(1024 - 256 + 64, "sys/fs/cgroup/memory/memory.limit_in_bytes");
}

TEST_F(AvailableMemoryTest, FilesThatHoldNoNumbers) {
  put("proc/self/cgroup", "nonsense\n0::/job\n:\n");
  put("sys/fs/cgroup/job/memory.max", "");
  put("sys/fs/cgroup/job/memory.current", "many");
  expect(8192, "proc/meminfo");
}

TEST(Memory, OfThisProcess) {
  const ResidentMemory before = resident_memory();
  EXPECT_GT(before.anonymous, 0u);
  EXPECT_GE(before.all, before.anonymous);
  EXPECT_GE(before.peak, before.all);
  const Buffer buffer(64 * mebibyte);
  std::fill_n(static_cast<char*>(buffer.data()), buffer.bytes(), char{1});
  EXPECT_GE(resident_memory().anonymous, before.anonymous + 60 * mebibyte);
  EXPECT_GE(resident_memory().peak, before.all + 60 * mebibyte);
}

TEST(Memory, AsText) {
  EXPECT_EQ(format_bytes(0), "0.0 MiB");
  EXPECT_EQ(format_bytes(5767168), "5.5 MiB");
  EXPECT_EQ(format_bytes(1932735283), "1.80 GiB");
}

TEST(Memory, WhatDoesNotFitIsATable) {
  const MemoryTable table = {{"a", 1 * mebibyte}, {"b", 7 * mebibyte}, {"c", 2 * mebibyte},
                             {"d", 3 * mebibyte}, {"e", 4 * mebibyte}, {"f", 5 * mebibyte}};
  EXPECT_NO_THROW(require_fits("it", table, {22 * mebibyte, "the test"}, [] { return ""; }));
  expect_error(
      ErrorKind::resource,
      {"it needs more memory than there is", "22.0 MiB: b 7.0 MiB, f 5.0 MiB, e 4.0 MiB, d 3.0 MiB, c 2.0 MiB\n",
       "21.0 MiB", "the test", "try this"},
      [&] {
        require_fits("it", table, {21 * mebibyte, "the test"}, [] { return "try this"; });
      });
}

// As a command does with a model that is too large for it.
TEST(Memory, HeldBeyondTheMachine) {
  EXPECT_NO_THROW(require_held_memory());
  const Buffer galaxy(size_t{1} << 45, "a galaxy");
  expect_error(ErrorKind::resource, {"the model needs more memory", "a galaxy 32768.00 GiB"}, require_held_memory);
}

}  // namespace
}  // namespace nibble
