// The double of cuBLASLt knows what the library's manual asks of products in FP8 and FP4, and reads their formats.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "tensor/cuda/emulation/library_call.hpp"
#include "tensor/error.hpp"

namespace nibble::cuda::emulation {
namespace {

constexpr int ampere = 80, hopper = 90, blackwell = 100, geforce = 120;
constexpr int32_t vectors = outer_vector_mode;
constexpr int32_t vec32 = CUBLASLT_MATMUL_MATRIX_SCALE_VEC32_UE8M0, vec16 = CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3;

/// 48 x 32 x 64, "TN", with scales that nobody reads.
Call call(cudaDataType a, cudaDataType b, int32_t mode = 0) {
  const auto* const scales = reinterpret_cast<const void*>(uintptr_t{4096});
  Call call{.how = {.compute = CUBLAS_COMPUTE_32F, .scale = CUDA_R_32F, .transpose_a = CUBLAS_OP_T},
            .a = {a, 64, 48, 64},
            .b = {b, 64, 32, 64},
            .c = {CUDA_R_32F, 48, 32, 48},
            .d = {CUDA_R_32F, 48, 32, 48}};
  call.how.a_scale_mode = call.how.b_scale_mode = mode;
  if (mode != 0) call.how.a_scale = call.how.b_scale = scales;
  return call;
}
const Call fp8 = call(CUDA_R_8F_E4M3, CUDA_R_8F_E5M2), mxfp8 = call(CUDA_R_8F_E4M3, CUDA_R_8F_E4M3, vec32),
           nvfp4 = call(CUDA_R_4F_E2M1, CUDA_R_4F_E2M1, vec16), rowwise = call(CUDA_R_8F_E5M2, CUDA_R_8F_E4M3, vectors);

TEST(LibraryDouble, HasKernelsWhereTheLibraryHas) {
  EXPECT_EQ(fp8.kind(ampere), Kind::none);
  EXPECT_EQ(fp8.kind(hopper), Kind::fp8);
  EXPECT_EQ(fp8.kind(geforce), Kind::fp8);
  EXPECT_EQ(mxfp8.kind(hopper), Kind::none);
  EXPECT_EQ(mxfp8.kind(blackwell), Kind::fp8_in_blocks);
  EXPECT_EQ(nvfp4.kind(hopper), Kind::none);
  EXPECT_EQ(nvfp4.kind(geforce), Kind::fp4);
  EXPECT_EQ(call(CUDA_R_8F_E5M2, CUDA_R_8F_E5M2).kind(blackwell), Kind::none);
  EXPECT_EQ(call(CUDA_R_4F_E2M1, CUDA_R_4F_E2M1, vec32).kind(blackwell), Kind::none);
  EXPECT_EQ(call(CUDA_R_8F_E4M3, CUDA_R_8F_E4M3, vec16).kind(blackwell), Kind::none);
  EXPECT_EQ(call(CUDA_R_4F_E2M1, CUDA_R_4F_E2M1).kind(blackwell), Kind::none);
  EXPECT_EQ(call(CUDA_R_8F_E4M3, CUDA_R_16BF).kind(blackwell), Kind::none);
  EXPECT_EQ(call(CUDA_R_16BF, CUDA_R_16BF, vec32).kind(blackwell), Kind::none);
}

TEST(LibraryDouble, ScalesRowsAndColumnsOnHopperAlone) {
  EXPECT_EQ(rowwise.kind(hopper), Kind::fp8_under_vectors);
  for (const int other : {ampere, blackwell, geforce}) EXPECT_EQ(rowwise.kind(other), Kind::none);
  EXPECT_EQ(call(CUDA_R_4F_E2M1, CUDA_R_4F_E2M1, vectors).kind(hopper), Kind::none);
  EXPECT_EQ(call(CUDA_R_16BF, CUDA_R_16BF, vectors).kind(hopper), Kind::none);
  const auto status = [](auto&& change) {
    Call changed = rowwise;
    change(changed);
    return changed.status(hopper);
  };
  EXPECT_EQ(status([](Call& x) { x.c.type = x.d.type = CUDA_R_16BF; }), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(status([](Call& x) { x.how.b_scale_mode = 0; }), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(status([](Call& x) { x.how.a_scale_mode = 0; }), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(status([](Call& x) { x.how.a_scale = nullptr; }), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_EQ(status([](Call& x) { x.d.type = CUDA_R_16BF; }), CUBLAS_STATUS_NOT_SUPPORTED);
}

TEST(LibraryDouble, MultipliesByTheScalesOfRowsAndColumns) {
  constexpr uint8_t one = 0x38;
  constexpr size_t m = 16, n = 3, k = 16;
  const std::vector<uint8_t> a(m * k, one), b(n * k, one);
  std::vector<float> of_a(m), of_b(n), c(m * n), result(m * n);
  for (size_t i = 0; i < m; ++i) of_a[i] = static_cast<float>(i + 1);
  for (size_t j = 0; j < n; ++j) of_b[j] = j == 1 ? -100.0f : 1000.0f;
  for (size_t i = 0; i < m * n; ++i) c[i] = static_cast<float>(i);
  Call product = call(CUDA_R_8F_E4M3, CUDA_R_8F_E4M3, vectors);
  product.a = {product.a.type, k, m, k};
  product.b = {product.b.type, k, n, k};
  product.c = product.d = {CUDA_R_32F, m, n, m};
  product.how.a_scale = of_a.data();
  product.how.b_scale = of_b.data();
  const auto bytes = [](auto& x) { return reinterpret_cast<const std::byte*>(x.data()); };
  std::vector<float> workspace(2 * m * n);
  for (const uint32_t parts : {1u, 2u}) {
    multiply(product, {bytes(a), bytes(b), bytes(c), reinterpret_cast<std::byte*>(result.data()), 0.5f, 2}, parts,
             workspace.data());
    for (size_t j = 0; j < n; ++j)
      for (size_t i = 0; i < m; ++i)
        EXPECT_EQ(result[j * m + i], 8 * of_a[i] * of_b[j] + 2 * c[j * m + i]) << i << " " << j;
  }
}

TEST(LibraryDouble, RefusesWhatTheManualForbids) {
  const auto refused = [](auto&& change, cublasStatus_t expected = CUBLAS_STATUS_NOT_SUPPORTED) {
    for (const Call& good : {fp8, mxfp8, nvfp4}) {
      ASSERT_EQ(good.status(blackwell), CUBLAS_STATUS_SUCCESS);
      Call bad = good;
      change(bad);
      EXPECT_EQ(bad.status(blackwell), expected) << static_cast<int>(good.kind(blackwell));
    }
  };
  refused([](Call& x) { x.how.transpose_a = CUBLAS_OP_N, x.a = {x.a.type, 48, 64, 64}; });
  refused([](Call& x) { x.how.transpose_b = CUBLAS_OP_T, x.b = {x.b.type, 32, 64, 32}; });
  refused([](Call& x) { x.a.rows = x.b.rows = 56; });
  refused([](Call& x) { x.a.stride = 72; });
  refused([](Call& x) { x.b.stride = 72; });
  refused([](Call& x) { x.d.stride = 50; });
  refused([](Call& x) { x.a.cols = x.c.rows = x.d.rows = 40; });
  refused([](Call& x) { x.how.compute = CUBLAS_COMPUTE_32F_FAST_TF32; });
  refused([](Call& x) { x.how.scale = CUDA_R_16BF; });
  refused([](Call& x) { x.d.type = CUDA_R_16BF; });
  refused([](Call& x) { x.c.type = x.d.type = CUDA_R_32I; });
  refused([](Call& x) { x.a.cols = 32; }, CUBLAS_STATUS_INVALID_VALUE);
  refused([](Call& x) { x.how.a_scale_mode = vectors; });
  for (const Call& good : {mxfp8, nvfp4}) {
    Call bad = good;
    bad.how.b_scale = nullptr;
    EXPECT_EQ(bad.status(blackwell), CUBLAS_STATUS_INVALID_VALUE);
    bad.how.b_scale = reinterpret_cast<const void*>(uintptr_t{4104});
    EXPECT_EQ(bad.status(blackwell), CUBLAS_STATUS_INVALID_VALUE);
  }
}

/// One by one, by a product with a one: value(code) of all codes, under a scale.
std::vector<float> values_of(cudaDataType type, int32_t mode, uint8_t scale, int codes, uint8_t one) {
  constexpr int64_t depth = 32;
  std::vector<uint8_t> a(256 * depth), b(16 * depth), tiles(2 * 512), ones(512);
  const int bits = static_cast<int>(bits_of(type));
  for (int code = 0; code < codes; ++code)
    a[static_cast<size_t>(code) * depth * static_cast<size_t>(bits) / 8] = static_cast<uint8_t>(code);
  b[0] = one;
  // Block 0 of every row; and the neutral one of b, whose other rows are zeros.
  for (size_t row = 0; row < 256; ++row) tiles[row / 128 * 512 + row % 32 * 16 + row % 128 / 32 * 4] = scale;
  ones[0] = mode == vec32 ? 127 : 0x38;
  if (mode == vec16)
    for (size_t row = 0; row < 256; ++row) tiles[row / 128 * 512 + row % 32 * 16 + row % 128 / 32 * 4 + 1] = scale;
  Call product = call(type, type == CUDA_R_8F_E5M2 ? CUDA_R_8F_E4M3 : type, mode);
  product.a = {product.a.type, depth, 256, depth};
  product.b = {product.b.type, depth, 16, depth};
  product.c = product.d = {CUDA_R_32F, 256, 16, 256};
  product.how.a_scale = mode == 0 ? nullptr : tiles.data();
  product.how.b_scale = mode == 0 ? nullptr : ones.data();
  std::vector<float> result(256 * 16);
  const auto bytes = [](auto& x) { return reinterpret_cast<std::byte*>(x.data()); };
  multiply(product, {bytes(a), bytes(b), bytes(result), bytes(result), 1, 0}, 1, nullptr);
  return {result.begin(), result.begin() + codes};
}

TEST(LibraryDouble, ReadsFormats) {
  constexpr uint8_t one_in_e4m3 = 0x38, one_in_e2m1 = 2;
  // The reference on quantization, sections 1.1 and 9.3.
  const std::vector<float> fp4 = values_of(CUDA_R_4F_E2M1, vec16, 0x40, 16, one_in_e2m1);
  EXPECT_EQ(fp4, (std::vector<float>{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}));
  const std::vector<float> e4m3 = values_of(CUDA_R_8F_E4M3, 0, 0, 256, one_in_e4m3),
                           e5m2 = values_of(CUDA_R_8F_E5M2, 0, 0, 256, one_in_e4m3),
                           scaled = values_of(CUDA_R_8F_E4M3, vec32, 124, 256, one_in_e4m3);
  EXPECT_EQ(e4m3[0x01], 0x1p-9f);
  EXPECT_EQ(e4m3[0x08], 0x1p-6f);
  EXPECT_EQ(e4m3[0x7e], 448);
  EXPECT_EQ(e4m3[0xfe], -448);
  EXPECT_TRUE(std::isnan(e4m3[0x7f]));
  EXPECT_EQ(e5m2[0x01], 0x1p-16f);
  EXPECT_EQ(e5m2[0x7b], 57344);
  EXPECT_TRUE(std::isinf(e5m2[0x7c]));
  EXPECT_TRUE(std::isnan(e5m2[0x7d]));
  for (size_t code = 0; code < 0x7f; ++code) EXPECT_EQ(scaled[code], e4m3[code] / 8) << code;
}

TEST(LibraryDouble, WantsZerosAroundScales) {
  std::vector<uint8_t> a(48 * 64), b(32 * 64), tiles(512), dirty(512);
  dirty[16 * 31 + 3] = 1;  // row 31, block 3 of 2
  std::vector<float> result(48 * 32);
  Call product = mxfp8;
  const auto bytes = [](auto& x) { return reinterpret_cast<std::byte*>(x.data()); };
  const Arguments arguments{bytes(a), bytes(b), bytes(result), bytes(result), 1, 0};
  product.how.a_scale = product.how.b_scale = tiles.data();
  EXPECT_NO_THROW(multiply(product, arguments, 1, nullptr));
  product.how.b_scale = dirty.data();
  EXPECT_THROW(multiply(product, arguments, 1, nullptr), Error);
}

}  // namespace
}  // namespace nibble::cuda::emulation
