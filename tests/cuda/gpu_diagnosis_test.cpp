// What the doctor asks of a device: products with a known answer, and the processor's codes.
#include "trainer/gpu_diagnosis.hpp"

#include <gtest/gtest.h>

#include "trainer/gemm_check.hpp"

namespace nibble {
namespace {

TEST(GpuDiagnosis, ProductsAreRight) {
  Stream device(1, Place::device);
  EXPECT_EQ(wrong_elements(device, DType::f32), 0);
  EXPECT_EQ(wrong_elements(device, DType::bf16), 0);
}

TEST(GpuDiagnosis, CodesOfAllRecipesAreTheProcessors) {
  Stream device(1, Place::device);
  EXPECT_EQ(differing_quantizer(device, recipes()), "");
}

}  // namespace
}  // namespace nibble
