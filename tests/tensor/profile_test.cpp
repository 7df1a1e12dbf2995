#include "tensor/profile.hpp"

#include <gtest/gtest.h>

#include "tensor/gemm.hpp"

namespace nibble {
namespace {

TEST(Profile, CountsCallsBytesAndOperationsOfAttachedStreamsOnly) {
  Stream stream(1);
  Profile profile;
  const OwnedTensor a(DType::f32, 6, 5), b(DType::f32, 4, 5), c(DType::f32, 6, 4);
  const auto multiply = [&] { gemm(stream, a, Transpose::no, b, Transpose::yes, c); };
  multiply();
  stream.attach(&profile);
  multiply();
  multiply();
  stream.attach(nullptr);
  multiply();
  ASSERT_EQ(profile.totals().size(), 1u);
  const auto& [name, total] = *profile.totals().begin();
  EXPECT_EQ(name, "gemm 6x4x5 NT f32>f32");
  EXPECT_EQ(total.calls, 2);
  EXPECT_EQ(total.operations, 2 * 2.0 * 6 * 4 * 5);
  EXPECT_EQ(total.bytes, 2 * 4.0 * (6 * 5 + 4 * 5 + 6 * 4));
  EXPECT_GT(total.seconds, 0);
}

TEST(Profile, KernelsThatAKernelCallsCountInIt) {
  Stream stream(1);
  Profile profile;
  stream.attach(&profile);
  {
    const KernelTimer outer(stream, "outer", {});
    const KernelTimer inner(stream, "inner", {});
  }
  const KernelTimer next(stream, "next", {});
  EXPECT_EQ(profile.totals().size(), 1u);
  EXPECT_EQ(profile.totals().count("outer"), 1u);
}

}  // namespace
}  // namespace nibble
