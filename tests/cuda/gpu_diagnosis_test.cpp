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
    const int before = cuda::emulation::library_use ? cuda::emulation::library_use().codes : 0;
    EXPECT_EQ(wrong_elements_of_codes(device), 0);
    EXPECT_EQ(wrong_elements_of_codes(device.host()), 0);
    if (cuda::emulation::library_use) {
      EXPECT_EQ(cuda::emulation::library_use().codes - before, architecture == testing::hopper ? 2 : 4);
    }
  }
}

TEST(GpuDiagnosis, CodesOfAllRecipesAreTheProcessors) {
  Stream device(1, Place::device);
  EXPECT_EQ(differing_quantizer(device, recipes()), "");
}

}  // namespace
}  // namespace nibble
