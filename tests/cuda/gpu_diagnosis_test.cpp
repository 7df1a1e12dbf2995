// What the doctor asks of a device: products with a known answer, and the processor's codes.
#include "trainer/gpu_diagnosis.hpp"

#include <gtest/gtest.h>

#include "tests/cuda/emulated_architecture.hpp"
#include "trainer/gemm_check.hpp"

namespace nibble {
namespace {

TEST(GpuDiagnosis, ProductsAreRight) {
  Stream device(1, Place::device);
  EXPECT_EQ(wrong_elements(device, DType::f32), 0);
  EXPECT_EQ(wrong_elements(device, DType::bf16), 0);
}

TEST(GpuDiagnosis, ProductsOfCodesAreRight) {
  for (const int architecture : {testing::hopper, testing::blackwell}) {
    const testing::Architecture emulated(architecture);
    Stream device(1, Place::device);
    const cuda::emulation::LibraryUse before =
        cuda::emulation::library_use ? cuda::emulation::library_use() : cuda::emulation::LibraryUse();
    EXPECT_EQ(wrong_elements_of_codes(device), 0);
    EXPECT_EQ(wrong_elements_of_codes(device.host()), 0);
    if (cuda::emulation::library_use) {
      const cuda::emulation::LibraryUse& now = cuda::emulation::library_use();
      EXPECT_EQ(now.codes - before.codes, architecture == testing::hopper ? 4 : 6);
      EXPECT_EQ(now.under_vectors - before.under_vectors, architecture == testing::hopper ? 2 : 0);
    }
  }
}

TEST(GpuDiagnosis, CodesOfAllRecipesAreTheProcessors) {
  Stream device(1, Place::device);
  EXPECT_EQ(differing_quantizer(device, recipes()), "");
}

}  // namespace
}  // namespace nibble
