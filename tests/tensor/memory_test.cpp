// Buffers and their ledger: what is held is known, and what is held is not yet touched.
#include "tensor/memory.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "tensor/tensor.hpp"

namespace nibble {
namespace {

constexpr size_t mebibyte = size_t{1} << 20;

size_t held(const std::string& purpose) {
  const MemoryTable table = held_memory();
  const auto row = table.find(purpose);
  return row == table.end() ? 0 : row->second;
}

TEST(Ledger, FollowsEveryBuffer) {
  for (const size_t bytes : {size_t{64}, 3 * mebibyte, 64 * mebibyte}) {
    Buffer first(bytes, "ledger test");
    EXPECT_EQ(held("ledger test"), bytes);
    Buffer second(bytes, "ledger test");
    EXPECT_EQ(held("ledger test"), 2 * bytes);
    first = std::move(second);
    EXPECT_EQ(held("ledger test"), bytes);
    first = Buffer();
    EXPECT_EQ(held("ledger test"), 0u);
    EXPECT_FALSE(held_memory().contains("ledger test"));
  }
}

TEST(Ledger, CountsWhatIsReserved) {
  const Buffer small(65, "small ledger test"), large(64 * mebibyte + 1, "large ledger test");
  EXPECT_EQ(held("small ledger test"), 128u);
  EXPECT_EQ(held("large ledger test"), 66 * mebibyte) << "whole huge pages";
}

TEST(Ledger, TellsWhatCameSince) {
  const Buffer old(128, "old ledger test");
  const MemoryTable before = held_memory();
  EXPECT_TRUE(held_memory_since(before).empty());
  const Buffer more(64, "old ledger test"), nameless(256);
  const MemoryTable since = held_memory_since(before);
  EXPECT_EQ(since, (MemoryTable{{"old ledger test", 64}, {"other", 256}}));
  EXPECT_EQ(total(since), 320u);
}

/// Pages of the range that have memory.
size_t resident_pages(const void* begin, size_t bytes) {
  std::vector<unsigned char> pages(bytes / static_cast<size_t>(sysconf(_SC_PAGESIZE)));
  EXPECT_EQ(mincore(const_cast<void*>(begin), bytes, pages.data()), 0);
  return static_cast<size_t>(std::ranges::count_if(pages, [](unsigned char page) { return (page & 1) != 0; }));
}

TEST(BufferMemory, LargeOnesAreNotTouched) {
  constexpr size_t bytes = 64 * mebibyte;
  const Buffer buffer(bytes);
  EXPECT_EQ(resident_pages(buffer.data(), bytes), 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % (2 * mebibyte), 0u);
  static_cast<char*>(buffer.data())[bytes / 2] = 1;
  EXPECT_GE(resident_pages(buffer.data(), bytes), 1u);
  EXPECT_LE(resident_pages(buffer.data(), bytes), 512u) << "one huge page at most";
}

TEST(BufferMemory, IsZero) {
  for (const size_t bytes : {size_t{100}, 3 * mebibyte, 9 * mebibyte}) {
    const Buffer buffer(bytes);
    const char* data = static_cast<const char*>(buffer.data());
    EXPECT_EQ(std::count(data, data + bytes, 0), static_cast<ptrdiff_t>(bytes));
  }
}

}  // namespace
}  // namespace nibble
