// Kernels over elements give the same bits on a device as on the host.
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "tensor/error.hpp"
#include "tensor/fill.hpp"
#include "tensor/gemm.hpp"
#include "tensor/profile.hpp"
#include "tests/cuda/on_device.hpp"

namespace nibble {
namespace {

using testing::drawn, testing::on_device, testing::on_host, testing::same_bits;

constexpr std::pair<int64_t, int64_t> shapes[] = {{1, 1}, {3, 7}, {5, 8}, {70, 264}, {1, 10007}, {3000, 3}, {2, 4099}};
constexpr DType types[] = {DType::f32, DType::bf16};

class OnDevice : public ::testing::Test {
 protected:
  Stream host{2}, device{2, Place::device};
};

TEST_F(OnDevice, MatricesGoThereAndBack) {
  for (const auto& [rows, cols] : shapes)
    for (const DType type : types) {
      const OwnedTensor x = drawn(type, rows, cols, 1);
      EXPECT_TRUE(same_bits(on_host(device, on_device(device, x)), x)) << rows << " x " << cols;
    }
}

TEST_F(OnDevice, PartsOfRowsAreCopied) {
  const OwnedTensor x = drawn(DType::f32, 9, 20, 1), part(DType::f32, 4, 6);
  const OwnedTensor there = on_device(device, x);
  copy(device, there.view().slice_rows(3, 4).slice_cols(11, 6), part);
  device.wait();
  for (int64_t i = 0; i < 4; ++i)
    for (int64_t j = 0; j < 6; ++j) EXPECT_EQ(part.view().row<float>(i)[j], x.view().row<float>(3 + i)[11 + j]);
}

TEST_F(OnDevice, Convert) {
  for (const auto& [rows, cols] : shapes)
    for (const DType from : types)
      for (const DType to : types) {
        const OwnedTensor x = drawn(from, rows, cols, 2), here(to, rows, cols),
                          there(to, rows, cols, "test", Place::device);
        convert(host, x, here);
        convert(device, on_device(device, x), there);
        EXPECT_TRUE(same_bits(on_host(device, there), here)) << rows << " x " << cols;
      }
}

TEST_F(OnDevice, AddAndMiddle) {
  for (const auto& [rows, cols] : shapes)
    for (const DType type : types) {
      const OwnedTensor a = drawn(type, rows, cols, 3), b = drawn(type, rows, cols, 4), here(type, rows, cols);
      const OwnedTensor device_a = on_device(device, a), device_b = on_device(device, b);
      middle(host, a, b, here);
      const OwnedTensor there(type, rows, cols, "test", Place::device);
      middle(device, device_a, device_b, there);
      EXPECT_TRUE(same_bits(on_host(device, there), here)) << rows << " x " << cols;
      if (type == DType::bf16) continue;
      add(host, a, b);
      add(device, device_a, device_b);
      EXPECT_TRUE(same_bits(on_host(device, device_b), b)) << rows << " x " << cols;
    }
}

TEST_F(OnDevice, RowsWithPaddingKeepIt) {
  const OwnedTensor whole(DType::f32, 6, 32, "test", Place::device);
  fill(device, whole.view().slice_cols(3, 21), 2.5f);
  const OwnedTensor seen = on_host(device, whole);
  for (int64_t i = 0; i < 6; ++i)
    for (int64_t j = 0; j < 32; ++j) EXPECT_EQ(seen.view().row<float>(i)[j], j >= 3 && j < 24 ? 2.5f : 0.0f);
}

TEST_F(OnDevice, NormalNumbersAreTheHosts) {
  const OwnedTensor here(DType::f32, 31, 9), there(DType::f32, 31, 9, "test", Place::device);
  const RandomStream random(5, Purpose::initialization);
  fill_normal(host, random, 0.02f, here);
  fill_normal(device, random, 0.02f, there);
  EXPECT_TRUE(same_bits(on_host(device, there), here));
}

TEST_F(OnDevice, Products) {
  const OwnedTensor a = drawn(DType::bf16, 40, 64, 5), b = drawn(DType::bf16, 24, 64, 6), here(DType::f32, 40, 24),
                    there(DType::f32, 40, 24, "test", Place::device);
  gemm(host, a, Transpose::no, b, Transpose::yes, here);
  gemm(device, on_device(device, a), Transpose::no, on_device(device, b), Transpose::yes, there);
  const OwnedTensor seen = on_host(device, there);
  for (int64_t i = 0; i < here.view().size(); ++i)
    ASSERT_NEAR(seen.view().as<float>()[i], here.view().as<float>()[i], 1e-4);
}

TEST_F(OnDevice, AProfileWaitsForKernels) {
  Profile profile;
  device.attach(&profile);
  const OwnedTensor x(DType::f32, 100, 100, "test", Place::device);
  fill(device, x, 1);
  device.attach(nullptr);
  EXPECT_EQ(profile.totals().at("fill").calls, 1);
  EXPECT_EQ(profile.totals().at("fill").bytes, 40000);
}

TEST_F(OnDevice, TheLedgerKnowsItsMemory) {
  const MemoryTable before = held_memory();
  const OwnedTensor x(DType::f32, 100, 100, "ledger of a device", Place::device);
  EXPECT_GE(held_memory(Place::device).at("ledger of a device"), size_t{40000});
  EXPECT_TRUE(held_memory_since(before).empty());
}

TEST(Devices, OneThatIsNotThereIsRefused) {
  try {
    Stream stream(1, Place::device, 9);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::resource);
    EXPECT_EQ(error.detail().seen, "device 9");
    EXPECT_FALSE(error.detail().next.empty());
  }
}

}  // namespace
}  // namespace nibble
