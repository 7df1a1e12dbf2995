// Rates of exchanges' kernels: of what there is, with the bytes that it must move.
#include "trainer/exchange_kernels.hpp"

#include <gtest/gtest.h>

#include <set>

namespace nibble {
namespace {

TEST(ExchangeKernels, AreMeasuredBesideACopy) {
  Stream device(1, Place::device);
  constexpr int64_t buckets = 3, elements = buckets * 512;
  const std::vector<KernelRate> rates = measure_exchange_kernels(device, elements);
  ASSERT_EQ(rates.front().kernel, "copy");
  EXPECT_EQ(rates.front().bytes, 8 * elements);
  std::set<std::string> names;
  for (const KernelRate& rate : rates) {
    EXPECT_TRUE(names.insert(rate.kernel).second) << rate.kernel;
    EXPECT_GT(rate.gb_per_second(), 0);
    if (rate.kernel == "top 4 of 512, error feedback") {
      EXPECT_EQ(rate.bytes, 12 * elements + 8 * 4 * buckets);
    }
    if (rate.kernel == "top 12 of all 1536, error feedback") {
      EXPECT_EQ(rate.bytes, 28 * elements + 8 * 12);
    }
    if (rate.kernel.starts_with("maxmin-4")) {
      EXPECT_EQ(rate.bytes, 4 * elements + elements / 2 + 2 * 8);
    }
  }
  EXPECT_TRUE(names.contains("top 4 of 512, error feedback, bf16"));
  EXPECT_TRUE(names.contains("top 12 of all 1536, error feedback"));
  EXPECT_TRUE(names.contains("maxmin-4, buckets of 1024, codes of values"));
  EXPECT_TRUE(names.contains("maxmin-4, buckets of 1024, values of codes"));
}

}  // namespace
}  // namespace nibble
