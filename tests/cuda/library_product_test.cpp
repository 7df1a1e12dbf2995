// How cuBLASLt is asked for gemm()'s products, without the library: the column-major view, what is left to kernels,
// rows of codes, and texts of records.
#include "tensor/cuda/library_product.hpp"

#include <gtest/gtest.h>

#include <array>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "tensor/cuda/library_algorithm.hpp"
#include "tensor/error.hpp"

namespace nibble::cuda {
namespace {

/// Addresses that nobody reads.
void* address(uintptr_t number) { return reinterpret_cast<void*>(number); }

Tensor matrix(DType type, int64_t rows, int64_t cols, int64_t stride, uintptr_t at = 4096) {
  return {type, address(at), rows, cols, stride, Place::device};
}

/// Element [row, col] of op(x) of a column-major x, by the definition of leading dimensions.
int64_t offset_in_library(bool transposed, int64_t stride, int64_t row, int64_t col) {
  return transposed ? row * stride + col : col * stride + row;
}
/// The same of a row-major matrix.
int64_t offset_in_gemm(bool transposed, int64_t stride, int64_t row, int64_t col) {
  return transposed ? col * stride + row : row * stride + col;
}

TEST(LibraryProduct, ReadsAndWritesTheElementsOfGemm) {
  constexpr int64_t m = 3, n = 4, k = 5;
  for (const bool ta : {false, true})
    for (const bool tb : {false, true}) {
      const Product product{ta ? matrix(DType::bf16, k, m, 7) : matrix(DType::bf16, m, k, 7),
                            ta,
                            tb ? matrix(DType::bf16, n, k, 9) : matrix(DType::bf16, k, n, 9),
                            tb,
                            matrix(DType::f32, m, n, 11),
                            matrix(DType::f32, m, n, 13, 8192)};
      const LibraryProduct seen = library_product(product);
      ASSERT_EQ(seen.m, n);
      ASSERT_EQ(seen.n, m);
      ASSERT_EQ(seen.k, k);
      EXPECT_EQ(seen.addend, LibraryAddend::other);
      for (int64_t i = 0; i < m; ++i)
        for (int64_t j = 0; j < n; ++j) {
          EXPECT_EQ(offset_in_library(false, seen.stride_d, j, i), offset_in_gemm(false, 11, i, j));
          EXPECT_EQ(offset_in_library(false, seen.stride_c, j, i), offset_in_gemm(false, 13, i, j));
          for (int64_t l = 0; l < k; ++l) {
            EXPECT_EQ(offset_in_library(seen.transpose_a, seen.stride_a, j, l), offset_in_gemm(tb, 9, l, j));
            EXPECT_EQ(offset_in_library(seen.transpose_b, seen.stride_b, l, i), offset_in_gemm(ta, 7, i, l));
          }
        }
    }
}

TEST(LibraryProduct, OfCodesCountsElements) {
  const Product product{matrix(DType::u8, 24, 48, 64), false, matrix(DType::u8, 16, 48, 80, 8192), true,
                        matrix(DType::f32, 24, 16, 16, 4104)};
  const LibraryProduct fp8 = library_product(product, {CodeFormat::e4m3, CodeFormat::e5m2, BlockScales::e8m0}),
                       fp4 = library_product(product, {CodeFormat::e2m1, CodeFormat::e2m1, BlockScales::e4m3});
  EXPECT_EQ(fp8.type_a, LibraryType::e5m2);
  EXPECT_EQ(fp8.type_b, LibraryType::e4m3);
  EXPECT_EQ(fp8.block_scales, BlockScales::e8m0);
  EXPECT_EQ((std::array{fp8.m, fp8.n, fp8.k, fp8.stride_a, fp8.stride_b}),
            (std::array<int64_t, 5>{16, 24, 48, 80, 64}));
  EXPECT_EQ((std::array{fp4.m, fp4.n, fp4.k, fp4.stride_a, fp4.stride_b}),
            (std::array<int64_t, 5>{16, 24, 96, 160, 128}));
  EXPECT_TRUE(fp8.transpose_a && !fp8.transpose_b);
}

TEST(LibraryProduct, KnowsItsAlignments) {
  const Tensor a = matrix(DType::bf16, 4, 4, 4, 4096), b = matrix(DType::bf16, 4, 4, 4, 4098),
               c = matrix(DType::f32, 4, 4, 4, 4104);
  const LibraryProduct seen = library_product({a, false, b, false, c});
  EXPECT_EQ(seen.alignment_a, 2u);
  EXPECT_EQ(seen.alignment_b, library_alignment);
  EXPECT_EQ(seen.alignment_d, 8u);
  EXPECT_EQ(seen.alignment_c, seen.alignment_d);
}

TEST(LibraryProduct, OfOneRowHasTheStrideOfItsColumns) {
  const Tensor row = matrix(DType::f32, 1, 6, 64), b = matrix(DType::f32, 6, 8, 8), c = matrix(DType::f32, 1, 8, 640);
  const LibraryProduct seen = library_product({row, false, b, false, c});
  EXPECT_EQ(seen.stride_b, 6);
  EXPECT_EQ(seen.stride_d, 8);
}

TEST(LibraryProduct, NoTwoHaveOneName) {
  const LibraryProduct plain{.type_a = LibraryType::bf16,
                             .type_b = LibraryType::bf16,
                             .result = DType::f32,
                             .m = 2,
                             .n = 3,
                             .k = 4,
                             .stride_a = 5,
                             .stride_b = 6,
                             .stride_c = 7,
                             .stride_d = 7,
                             .alignment_a = 16,
                             .alignment_b = 16,
                             .alignment_c = 16,
                             .alignment_d = 16};
  EXPECT_EQ(name(plain), "3x2x4 NN bf16>f32, strides 6 5 7, aligned 16 16 16");
  std::vector<LibraryProduct> others(16, plain);
  others[0].type_a = others[0].type_b = LibraryType::f32;
  others[1].result = DType::bf16;
  others[2].transpose_a = true;
  others[3].transpose_b = true;
  others[4].m = 9;
  others[5].n = 9;
  others[6].k = 9;
  others[7].stride_a = 9;
  others[8].stride_b = 9;
  others[9].stride_d = 9;
  others[10].alignment_a = 4;
  others[11].alignment_b = 4;
  others[12].alignment_d = 4;
  others[13].factor_on_device = true;
  others[14].addend = LibraryAddend::destination;
  others[15].vector_scales = true;
  others.push_back(plain);
  others.back().addend = LibraryAddend::other;
  others.push_back(others.back());
  others.back().stride_c = 9;
  others.push_back(others.back());
  others.back().alignment_c = 4;
  for (const auto& [a, b, scales] : {std::tuple{LibraryType::e4m3, LibraryType::e4m3, BlockScales::none},
                                     {LibraryType::e4m3, LibraryType::e5m2, BlockScales::none},
                                     {LibraryType::e5m2, LibraryType::e4m3, BlockScales::none},
                                     {LibraryType::e4m3, LibraryType::e4m3, BlockScales::e8m0},
                                     {LibraryType::e2m1, LibraryType::e2m1, BlockScales::e4m3}}) {
    others.push_back(plain);
    others.back().type_a = a;
    others.back().type_b = b;
    others.back().block_scales = scales;
  }
  EXPECT_EQ(name(others.back()), "3x2x4 NN e2m1 e2m1>f32, e4m3 scales, strides 6 5 7, aligned 16 16 16");
  others.push_back(plain);
  std::set<std::string> names;
  std::set<size_t> hashes;
  for (const LibraryProduct& product : others) {
    names.insert(name(product));
    hashes.insert(LibraryProductHash()(product));
  }
  EXPECT_EQ(names.size(), others.size());
  EXPECT_EQ(hashes.size(), others.size());
}

TEST(LibraryProduct, IsAllOfGemmWhereEachOperationIsRoundedAsThere) {
  const Tensor a = matrix(DType::bf16, 8, 8, 8), c = matrix(DType::f32, 8, 8, 8), narrow = matrix(DType::bf16, 8, 8, 8),
               codes = matrix(DType::i8, 8, 8, 8), scales = matrix(DType::f32, 1, 8, 8),
               nothing = matrix(DType::bf16, 8, 0, 8), other = matrix(DType::f32, 8, 8, 8, 8192);
  const Scalar there = Scalar::at(static_cast<const float*>(address(64)));
  EXPECT_TRUE(library_finishes({a, false, a, false, c}));
  EXPECT_TRUE(library_finishes({a, false, a, false, narrow}));
  EXPECT_TRUE(library_finishes({a, false, a, false, c, c}));
  EXPECT_TRUE(library_finishes({a, false, a, false, c, other}));
  EXPECT_TRUE(library_finishes({a, false, a, false, c, {}, {.factor = 3}}));
  EXPECT_TRUE(library_finishes({a, false, a, false, narrow, {}, {.factor = there}}));
  EXPECT_FALSE(library_finishes({a, false, a, false, c, other, {.factor = 3}}));
  EXPECT_FALSE(library_finishes({a, false, a, false, c, c, {.factor = there}}));
  EXPECT_FALSE(library_finishes({a, false, a, false, narrow, other}));
  EXPECT_FALSE(library_finishes({a, false, a, false, c, {}, {.rows = scales}}));
  EXPECT_FALSE(library_finishes({a, false, a, false, c, {}, {.cols = scales}}));
  EXPECT_FALSE(library_finishes({codes, false, codes, false, c}));
  EXPECT_FALSE(library_finishes({nothing, false, nothing, true, c}));
}

TEST(LibraryProduct, MayScaleFp8UnderBothScales) {
  const Tensor a = matrix(DType::u8, 16, 32, 32), b = matrix(DType::u8, 48, 32, 32, 8192),
               c = matrix(DType::f32, 16, 48, 48), narrow = matrix(DType::bf16, 16, 48, 48),
               rows = matrix(DType::f32, 1, 16, 16), cols = matrix(DType::f32, 1, 48, 48, 8192),
               odd = matrix(DType::f32, 1, 48, 48, 8196);
  constexpr CodePair fp8{CodeFormat::e4m3, CodeFormat::e5m2, BlockScales::none},
      mxfp8{CodeFormat::e4m3, CodeFormat::e5m2, BlockScales::e8m0};
  const Scalar there = Scalar::at(static_cast<const float*>(address(64)));
  const auto may = [&](const Tensor& to, const Tensor& addend, const Scaling& scaling, const CodePair& pair) {
    return library_may_scale({a, false, b, true, to, addend, scaling}, pair);
  };
  EXPECT_TRUE(may(c, {}, {.factor = 3, .rows = rows, .cols = cols}, fp8));
  EXPECT_TRUE(may(narrow, {}, {.factor = there, .rows = rows, .cols = cols}, fp8));
  EXPECT_TRUE(may(c, c, {.factor = 3, .rows = rows, .cols = cols}, fp8));
  EXPECT_FALSE(may(c, c, {.factor = there, .rows = rows, .cols = cols}, fp8));
  EXPECT_FALSE(may(narrow, c, {.rows = rows, .cols = cols}, fp8));
  EXPECT_FALSE(may(c, {}, {.rows = rows}, fp8));
  EXPECT_FALSE(may(c, {}, {.cols = cols}, fp8));
  EXPECT_FALSE(may(c, {}, {.rows = rows, .cols = odd}, fp8));
  EXPECT_FALSE(may(c, {}, {.rows = rows, .cols = cols}, mxfp8));
  EXPECT_TRUE(library_product({a, false, b, true, c, {}, {.rows = rows, .cols = cols}}, fp8).vector_scales);
  EXPECT_FALSE(library_product({a, false, b, true, c}, fp8).vector_scales);
}

TEST(CodeRows, StayWhereTheyAreAsTheLibraryWantsThem) {
  const Tensor good = matrix(DType::i8, 12, 20, 24);
  EXPECT_EQ(code_rows(good, false, true), (CodeRows{12, 20, 24, false}));
  EXPECT_EQ(code_rows(good, true, true), (CodeRows{20, 12, 16, true}));
  EXPECT_EQ(code_rows(matrix(DType::i8, 13, 20, 24), false, true), (CodeRows{16, 20, 32, true}));
  EXPECT_EQ(code_rows(matrix(DType::i8, 13, 20, 24), false, false), (CodeRows{13, 20, 24, false}));
  EXPECT_EQ(code_rows(matrix(DType::i8, 12, 18, 24), false, false), (CodeRows{12, 20, 32, true}));
  EXPECT_EQ(code_rows(matrix(DType::i8, 12, 20, 22), false, false), (CodeRows{12, 20, 32, true}));
  EXPECT_EQ(code_rows(matrix(DType::i8, 12, 20, 24, 4098), false, false), (CodeRows{12, 20, 32, true}));
  EXPECT_EQ(code_rows(matrix(DType::i8, 1, 20, 23), false, false), (CodeRows{1, 20, 20, false}));
}

TEST(LibraryAlgorithm, IsTheTextThatItGave) {
  const LibraryAlgorithm algorithm{66, 31, 36, 4, 2, 1, 7, 3, 4294967295u};
  EXPECT_EQ(text_of(algorithm),
            "algorithm 66, tile 31, stages 36, split-K 4, reduction 2, swizzle 1, option 7, inner shape 3, cluster "
            "shape 4294967295");
  EXPECT_EQ(algorithm_in(text_of(algorithm), "p"), algorithm);
  const std::string good = text_of({});
  for (const std::string& bad : {std::string(), good + ", more 1", good.substr(1), good.substr(0, good.size() - 1),
                                 text_of(algorithm) + "0", "tile 1, " + good}) {
    try {
      algorithm_in(bad, "3x2x4");
      ADD_FAILURE() << bad;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::checkpoint);
      EXPECT_NE(error.detail().where.find("3x2x4"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace nibble::cuda
