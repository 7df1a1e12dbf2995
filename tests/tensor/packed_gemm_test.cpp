// Nibble's own GEMM: shapes that cross every block's edge, against double; the same bits for any cut of C.
#include "tensor/packed_gemm.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <ostream>
#include <string_view>
#include <vector>

#include "tensor/convert.hpp"
#include "tensor/cpu/amx_tile_kernel.hpp"
#include "tensor/random.hpp"

namespace nibble {
namespace {

/// What AMX's tile registers compute, on any processor.
struct EmulatedTiles {
  static inline thread_local float tiles[8][16][16];

  static void enter() {}
  static void leave() {
    for (auto& tile : tiles) std::fill_n(&tile[0][0], 256, std::nanf(""));
  }
  template <int tile>
  static void zero() {
    std::fill_n(&tiles[tile][0][0], 256, 0.0f);
  }
  template <int tile>
  static void load(const void* from, int64_t stride) {
    for (int64_t i = 0; i < 16; ++i) std::memcpy(tiles[tile][i], static_cast<const char*>(from) + i * stride, 64);
  }
  template <int tile>
  static void store(void* to, int64_t stride) {
    for (int64_t i = 0; i < 16; ++i) std::memcpy(static_cast<char*>(to) + i * stride, tiles[tile][i], 64);
  }
  template <int c, int a, int b>
  static void dot() {
    bf16 rows[16][32], pairs[16][32];
    std::memcpy(static_cast<void*>(rows), tiles[a], sizeof rows);
    std::memcpy(static_cast<void*>(pairs), tiles[b], sizeof pairs);
    for (int i = 0; i < 16; ++i)
      for (int k = 0; k < 16; ++k)
        for (int j = 0; j < 16; ++j) {
          tiles[c][i][j] += float(rows[i][2 * k]) * float(pairs[k][2 * j]);
          tiles[c][i][j] += float(rows[i][2 * k + 1]) * float(pairs[k][2 * j + 1]);
        }
  }
};

/// The kernels that this machine can run; the emulated one with small blocks too, so that every loop goes round.
std::vector<TileKernel> kernels() {
  if (Stream(1).isa() < Isa::avx512) return {};
  std::vector<TileKernel> all = {*fma_tile_kernel(), amx_tile_kernel_on<EmulatedTiles>("emulated AMX")};
  all.push_back(all.back());
  all.back().row_block = 64;
  all.back().col_block = 64;
  all.back().depth_block = 64;
  all.back().region_rows = 128;
  // On the machine's own tiles only where they are asked for.
  const char* wish = std::getenv("NIBBLE_GEMM");
  if (amx_tile_kernel() && wish && std::string_view(wish) == "packed") all.push_back(*amx_tile_kernel());
  return all;
}
bool takes(const TileKernel& kernel, DType type) { return kernel.panel_type == DType::f32 || type == DType::bf16; }

OwnedTensor random_matrix(Stream& stream, DType type, int64_t rows, int64_t cols, uint32_t tensor) {
  const OwnedTensor values(DType::f32, rows, cols);
  const RandomStream random(11, Purpose::initialization, 0, tensor);
  for (int64_t i = 0; i < rows * cols; ++i) values.view().as<float>()[i] = random.normal_pair(i)[0];
  OwnedTensor result(type, rows, cols);
  convert(stream, values, result);
  return result;
}

double element(const Tensor& x, bool transposed, int64_t i, int64_t j) {
  if (transposed) std::swap(i, j);
  return x.dtype == DType::bf16 ? static_cast<float>(x.row<bf16>(i)[j]) : x.row<float>(i)[j];
}

struct Shape {
  int64_t m, n, k;
};
void PrintTo(const Shape& shape, std::ostream* out) { *out << shape.m << "x" << shape.n << "x" << shape.k; }

class PackedGemm : public ::testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    if (kernels().empty()) GTEST_SKIP() << "no AVX-512";
  }
};

TEST_P(PackedGemm, AgreesWithDoubleInEveryRegion) {
  const auto [m, n, k] = GetParam();
  Stream stream(2);
  for (const bool ta : {false, true})
    for (const bool tb : {false, true})
      for (const DType in : {DType::f32, DType::bf16})
        for (const DType out : {DType::f32, DType::bf16}) {
          if (in == DType::f32 && out == DType::bf16) continue;
          for (const TileKernel& kernel : kernels()) {
            if (!takes(kernel, in)) continue;
            const OwnedTensor a = random_matrix(stream, in, ta ? k : m, ta ? m : k, 1),
                              b = random_matrix(stream, in, tb ? n : k, tb ? k : n, 2),
                              addend = random_matrix(stream, DType::f32, m, n, 3), c(out, m, n);
            packed_gemm(stream, kernel, {a, ta, b, tb, c, addend});
            // Every row and every column, each of them at a few places.
            for (int64_t i = 0; i < m; ++i)
              for (int64_t j = i % 37; j < n; j += 37) {
                double sum = element(addend, false, i, j), size = std::abs(sum);
                for (int64_t l = 0; l < k; ++l) {
                  const double product = element(a, ta, i, l) * element(b, tb, l, j);
                  sum += product;
                  size += std::abs(product);
                }
                const double bound = size * 1e-6 + (out == DType::bf16 ? std::abs(sum) * 0x1p-8 : 0);
                ASSERT_NEAR(element(c, false, i, j), sum, bound)
                    << i << ", " << j << " " << ta << tb << " " << kernel.name;
              }
          }
        }
}

TEST_P(PackedGemm, GivesTheSameBitsForAnyNumberOfThreads) {
  const auto [m, n, k] = GetParam();
  Stream one(1);
  const OwnedTensor a = random_matrix(one, DType::bf16, m, k, 1), b = random_matrix(one, DType::bf16, k, n, 2),
                    expected(DType::bf16, m, n);
  for (const TileKernel& kernel : kernels()) {
    packed_gemm_in_task(kernel, {a, false, b, false, expected});
    for (const int threads : {1, 2, 3, 16}) {
      Stream stream(threads);
      const OwnedTensor c(DType::bf16, m, n);
      packed_gemm(stream, kernel, {a, false, b, false, c});
      ASSERT_EQ(std::memcmp(c.view().data, expected.view().data, c.view().bytes()), 0)
          << threads << " threads, " << kernel.name;
    }
  }
}

TEST_P(PackedGemm, TouchesNothingBesideItsOperands) {
  const auto [m, n, k] = GetParam();
  Stream stream(2);
  const OwnedTensor a = random_matrix(stream, DType::bf16, m, k, 1), b = random_matrix(stream, DType::bf16, k, n, 2),
                    wide = random_matrix(stream, DType::f32, m + 2, n + 5, 3),
                    before = random_matrix(stream, DType::f32, m + 2, n + 5, 3);
  for (const TileKernel& kernel : kernels())
    packed_gemm(stream, kernel, {a, false, b, false, wide.view().slice_rows(1, m).slice_cols(2, n)});
  for (int64_t i = 0; i < m + 2; ++i)
    for (int64_t j = 0; j < n + 5; ++j)
      if (i == 0 || i == m + 1 || j < 2 || j >= n + 2) {
        ASSERT_EQ(wide.view().row<float>(i)[j], before.view().row<float>(i)[j]) << i << ", " << j;
      }
}

INSTANTIATE_TEST_SUITE_P(Shapes, PackedGemm,
                         ::testing::Values(Shape{1, 1, 1}, Shape{17, 33, 2}, Shape{16, 32, 257}, Shape{61, 16, 300},
                                           Shape{385, 40, 65}, Shape{40, 530, 130}, Shape{1600, 50, 20},
                                           Shape{130, 1050, 513}));

TEST(PackedGemmViews, StridedOperandsAndASumIntoItself) {
  if (kernels().empty()) GTEST_SKIP() << "no AVX-512";
  constexpr int64_t m = 70, n = 45, k = 600;
  Stream stream(2);
  const OwnedTensor wide_a = random_matrix(stream, DType::bf16, m + 3, k + 9, 1),
                    wide_b = random_matrix(stream, DType::bf16, n + 2, k + 5, 2),
                    before = random_matrix(stream, DType::f32, m, n, 3), c(DType::f32, m, n);
  const Tensor a = wide_a.view().slice_rows(2, m).slice_cols(7, k), b = wide_b.view().slice_rows(1, n).slice_cols(3, k);
  for (const TileKernel& kernel : kernels()) {
    convert(stream, before, c);
    packed_gemm(stream, kernel, {a, false, b, true, c, c});
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) {
        double sum = element(before, false, i, j), size = std::abs(sum);
        for (int64_t l = 0; l < k; ++l) {
          const double product = element(a, false, i, l) * element(b, true, l, j);
          sum += product;
          size += std::abs(product);
        }
        ASSERT_NEAR(element(c, false, i, j), sum, size * 1e-6) << i << ", " << j << " " << kernel.name;
      }
  }
}

TEST(PackedGemmDepth, ZeroGivesTheAddend) {
  if (kernels().empty()) GTEST_SKIP() << "no AVX-512";
  Stream stream(1);
  const OwnedTensor addend = random_matrix(stream, DType::f32, 5, 7, 3), c(DType::f32, 5, 7);
  const Tensor a(DType::f32, c.view().data, 5, 0), b(DType::f32, c.view().data, 0, 7);
  packed_gemm(stream, *fma_tile_kernel(), {a, false, b, false, c, addend});
  EXPECT_EQ(std::memcmp(c.view().data, addend.view().data, c.view().bytes()), 0);
}

}  // namespace
}  // namespace nibble
