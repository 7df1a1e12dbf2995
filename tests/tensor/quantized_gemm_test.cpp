// Products of quantized operands: whole numbers, whose sums are exact in any order, so that every path must give the
// bits of one sum for each element, scaled, added to and rounded in the documented order.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tensor/error.hpp"
#include "tensor/gemm.hpp"
#include "tensor/packed_gemm.hpp"
#include "tensor/random.hpp"
#include "tests/tensor/scoped_environment.hpp"

namespace nibble {
namespace {

constexpr int32_t largest = 9;  ///< of a float operand

/// Whole numbers in any type.
void fill(const Tensor& x, uint32_t tensor) {
  const RandomStream random(5, Purpose::initialization, 0, tensor);
  for (int64_t i = 0; i < x.rows; ++i)
    for (int64_t j = 0; j < x.cols; ++j) {
      const uint32_t bits = random.word(static_cast<uint64_t>(i * x.cols + j));
      const auto value = static_cast<int32_t>(bits % (2 * largest + 1)) - largest;
      if (x.dtype == DType::i8) x.row<int8_t>(i)[j] = static_cast<int8_t>(bits >> 24);
      else if (x.dtype == DType::bf16) x.row<bf16>(i)[j] = bf16(static_cast<float>(value));
      else x.row<float>(i)[j] = static_cast<float>(value);
    }
}

double element(const Tensor& x, int64_t i, int64_t j) {
  if (x.dtype == DType::i8) return x.row<int8_t>(i)[j];
  return x.dtype == DType::bf16 ? static_cast<float>(x.row<bf16>(i)[j]) : x.row<float>(i)[j];
}

enum class Addend { none, destination, other };

/// Operands of one shape and orientation, with what goes with them, and what a product of them must give.
class Problem {
 public:
  Problem(int64_t m, int64_t n, int64_t k, bool transpose_a, bool transpose_b, DType in, DType out)
      : transpose_a_(transpose_a), transpose_b_(transpose_b), depth_(k) {
    arena_ = Arena("test", [&](Arena& memory) {
      a = transpose_a ? memory.take(in, k, m) : memory.take(in, m, k);
      b = transpose_b ? memory.take(in, n, k) : memory.take(in, k, n);
      c = memory.take(out, m, n);
      other = memory.take(DType::f32, m, n);
      rows = memory.take(DType::f32, 1, m);
      cols = memory.take(DType::f32, 1, n);
    });
    fill(a, 1);
    fill(b, 2);
    fill(other, 4);
    fill(rows, 5);
    fill(cols, 6);
    for (int64_t i = 0; i < m; ++i) rows.as<float>()[i] = 1 / (rows.as<float>()[i] + 0.3f);
    for (int64_t j = 0; j < n; ++j) cols.as<float>()[j] = 1 / (cols.as<float>()[j] + 0.7f);
  }

  Product product(Addend which, const Scaling& scaling) const {
    const Tensor addend = which == Addend::none ? Tensor() : which == Addend::destination ? c : other;
    return {a, transpose_a_, b, transpose_b_, c, addend, scaling};
  }

  /// multiply(product) must give these bits.
  template <class Multiply>
  void expect(Addend which, const Scaling& scaling, const std::string& label, Multiply&& multiply) const {
    fill(c, 3);
    const Product given = product(which, scaling);
    const OwnedTensor before(DType::f32, c.rows, c.cols);
    for (int64_t i = 0; i < c.rows; ++i)
      for (int64_t j = 0; j < c.cols; ++j)
        before.view().row<float>(i)[j] = given.addend ? static_cast<float>(element(given.addend, i, j)) : 0.0f;
    multiply(given);
    for (int64_t i = 0; i < c.rows; ++i)
      for (int64_t j = i % 3; j < c.cols; j += 3) {
        float x = static_cast<float>(sum(scaling, i, j)) * scaling.factor;
        if (scaling.rows) x = x * scaling.rows.as<float>()[i];
        if (scaling.cols) x = x * scaling.cols.as<float>()[j];
        if (given.addend) x = x + before.view().row<float>(i)[j];
        const double expected = c.dtype == DType::bf16 ? static_cast<float>(bf16(x)) : x;
        ASSERT_EQ(element(c, i, j), expected) << i << ", " << j << " " << label;
      }
  }

  std::string label() const {
    return std::string(transpose_a_ ? " T" : " N") + (transpose_b_ ? "T " : "N ") + std::string(name(a.dtype)) + ">" +
           std::string(name(c.dtype));
  }

  Tensor a, b, c, other, rows, cols;

 private:
  double sum(const Scaling& scaling, int64_t i, int64_t j) const {
    double total = 0;
    for (int64_t l = 0; l < depth_; ++l)
      total += ((transpose_a_ ? element(a, l, i) : element(a, i, l)) + scaling.a_offset) *
               ((transpose_b_ ? element(b, j, l) : element(b, l, j)) + scaling.b_offset);
    return total;
  }
  Arena arena_;
  bool transpose_a_, transpose_b_;
  int64_t depth_;
};

/// Every orientation, type of C, addend and scaling that operands of `in` may have.
template <class Multiply>
void expect_everywhere(int64_t m, int64_t n, int64_t k, DType in, const std::string& label, Multiply&& multiply) {
  for (const DType out : {DType::f32, DType::bf16})
    for (const bool ta : {false, true})
      for (const bool tb : {false, true}) {
        if (in == DType::f32 && out == DType::bf16) continue;
        const Problem problem(m, n, k, ta, tb, in, out);
        std::vector<Scaling> scalings = {{},
                                         {.factor = 0.3f},
                                         {.rows = problem.rows},
                                         {.factor = -1.7f, .rows = problem.rows, .cols = problem.cols}};
        if (in == DType::i8) {
          scalings.push_back({.a_offset = 0.5f});
          scalings.push_back({.b_offset = -0.5f});
          scalings.push_back({.factor = 0.1f, .cols = problem.cols, .a_offset = 0.5f, .b_offset = 0.5f});
        }
        for (const Addend addend : {Addend::none, Addend::destination, Addend::other}) {
          if (addend == Addend::destination && out == DType::bf16) continue;
          for (const Scaling& scaling : scalings) problem.expect(addend, scaling, label + problem.label(), multiply);
        }
      }
}

/// gemm() of a product.
void multiply(Stream& stream, const Product& product) {
  gemm(stream, product.a, Transpose(product.transpose_a), product.b, Transpose(product.transpose_b), product.c,
       product.addend, product.scaling);
}

/// Both ways to multiply, where the processor has both.
std::vector<const char*> libraries(const Stream& stream) {
  return stream.isa() == Isa::avx512 ? std::vector{"packed", "onednn"} : std::vector{"onednn"};
}

struct Shape {
  int64_t m, n, k;
};
void PrintTo(const Shape& shape, std::ostream* out) { *out << shape.m << "x" << shape.n << "x" << shape.k; }

class QuantizedGemm : public ::testing::TestWithParam<Shape> {};

TEST_P(QuantizedGemm, MultipliesByFactorRowAndColumnThenAddsThenRounds) {
  const auto [m, n, k] = GetParam();
  Stream stream(2);
  for (const char* library : libraries(stream)) {
    const ScopedEnvironment scope("NIBBLE_GEMM", library);
    for (const DType in : {DType::f32, DType::bf16, DType::i8})
      expect_everywhere(m, n, k, in, library, [&](const Product& product) { multiply(stream, product); });
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, QuantizedGemm,
                         ::testing::Values(Shape{1, 1, 1}, Shape{17, 33, 2}, Shape{48, 64, 20}, Shape{61, 35, 600},
                                           Shape{1, 40, 70}, Shape{50, 1, 300}, Shape{20, 18, 2100}));

TEST(QuantizedGemmBlocks, SmallOnesGoRoundEveryLoop) {
  if (Stream(1).isa() < Isa::avx512 || !vnni_tile_kernel()) GTEST_SKIP() << "no AVX-512 VNNI";
  TileKernel kernel = *vnni_tile_kernel();
  kernel.row_block = 32;
  kernel.col_block = 64;
  kernel.depth_block = 12;
  kernel.region_rows = 48;
  Stream stream(2);
  expect_everywhere(75, 70, 41, DType::i8, "small blocks",
                    [&](const Product& product) { packed_gemm(stream, kernel, product); });
}

TEST(QuantizedGemmSums, AreExactForTheLargestCodes) {
  Stream stream(2);
  for (const char* library : libraries(stream)) {
    const ScopedEnvironment scope("NIBBLE_GEMM", library);
    for (const int64_t depth : {int64_t{4096}, largest_i8_depth})
      for (const auto& [left, right] : {std::pair{-128, -128}, {127, -128}, {-128, 127}, {127, 127}}) {
        const OwnedTensor a(DType::i8, 16, depth), b(DType::i8, 32, depth), c(DType::f32, 16, 32);
        std::fill_n(a.view().as<int8_t>(), a.view().size(), static_cast<int8_t>(left));
        std::fill_n(b.view().as<int8_t>(), b.view().size(), static_cast<int8_t>(right));
        gemm(stream, a, Transpose::no, b, Transpose::yes, c);
        for (int64_t i = 0; i < c.view().size(); ++i)
          ASSERT_EQ(c.view().as<float>()[i], static_cast<float>(depth * left * right)) << library << " " << depth;
      }
  }
}

TEST(QuantizedGemmThreads, GiveTheSameBitsInAnyNumber) {
  Stream one(1);
  for (const char* library : libraries(one)) {
    const ScopedEnvironment scope("NIBBLE_GEMM", library);
    const Problem problem(450, 140, 90, false, true, DType::i8, DType::f32);
    const Scaling scaling{
        .factor = 0.1f, .rows = problem.rows, .cols = problem.cols, .a_offset = 0.5f, .b_offset = 0.5f};
    const Product product = problem.product(Addend::none, scaling);
    multiply(one, product);
    const OwnedTensor expected(DType::f32, problem.c.rows, problem.c.stride);
    std::memcpy(expected.view().data, problem.c.data, expected.view().bytes());
    for (const int threads : {2, 3, 7}) {
      Stream stream(threads);
      fill(problem.c, 3);
      multiply(stream, product);
      for (int64_t i = 0; i < problem.c.rows; ++i)
        ASSERT_EQ(std::memcmp(problem.c.row<float>(i), expected.view().row<float>(i),
                              static_cast<size_t>(problem.c.cols) * sizeof(float)),
                  0)
            << threads << " threads, " << library;
    }
  }
}

TEST(QuantizedGemmViews, TouchNothingBesideC) {
  Stream stream(2);
  for (const char* library : libraries(stream)) {
    const ScopedEnvironment scope("NIBBLE_GEMM", library);
    const Problem problem(37, 45, 70, true, false, DType::i8, DType::f32);
    const OwnedTensor wide(DType::f32, 39, 52);
    fill(wide, 9);
    const OwnedTensor before(DType::f32, 39, 52);
    std::memcpy(before.view().data, wide.view().data, wide.view().bytes());
    gemm(stream, problem.a, Transpose::yes, problem.b, Transpose::no, wide.view().slice_rows(1, 37).slice_cols(3, 45),
         {}, {.rows = problem.rows, .a_offset = 0.5f});
    for (int64_t i = 0; i < 39; ++i)
      for (int64_t j = 0; j < 52; ++j)
        if (i == 0 || i == 38 || j < 3 || j >= 48) {
          ASSERT_EQ(wide.view().row<float>(i)[j], before.view().row<float>(i)[j]) << i << ", " << j << " " << library;
        }
  }
}

TEST(QuantizedGemmChoice, OfI8FollowsTheEnvironmentAndHasAPeak) {
  Stream stream(1);
  for (const char* library : libraries(stream)) {
    const ScopedEnvironment scope("NIBBLE_GEMM", library);
    const bool packed = std::string_view(library) == "packed" && vnni_tile_kernel();
    EXPECT_EQ(gemm_library(stream, DType::i8).rfind(packed ? "packed VNNI" : "oneDNN ", 0), 0u);
    EXPECT_GT(measure_gemm_peak(stream, DType::i8), 0);
    EXPECT_GT(gemm_scratch_bytes(stream, DType::i8, 1000, 1000, 1000), 0u);
  }
}

TEST(QuantizedGemmErrors, ScalesThatDoNotFit) {
  Stream stream(1);
  const Problem problem(20, 30, 10, false, false, DType::f32, DType::f32);
  const auto scaled = [&](const Scaling& scaling) { multiply(stream, problem.product(Addend::none, scaling)); };
  EXPECT_NO_THROW(scaled({.rows = problem.rows, .cols = problem.cols}));
  EXPECT_THROW(scaled({.rows = problem.cols}), Error);
  EXPECT_THROW(scaled({.cols = problem.rows}), Error);
  EXPECT_THROW(scaled({.cols = OwnedTensor(DType::bf16, 1, 30)}), Error);
  EXPECT_THROW(scaled({.rows = OwnedTensor(DType::f32, 20, 1)}), Error);
}

TEST(QuantizedGemmErrors, TypesOffsetsAndDepthsThatDoNotFit) {
  Stream stream(1);
  const auto multiply_types = [&](DType a, DType b, DType c, const Scaling& scaling = {}) {
    const OwnedTensor left(a, 4, 5), right(b, 5, 6), result(c, 4, 6);
    gemm(stream, left, Transpose::no, right, Transpose::no, result, {}, scaling);
  };
  EXPECT_NO_THROW(multiply_types(DType::i8, DType::i8, DType::bf16, {.a_offset = 0.5f}));
  EXPECT_THROW(multiply_types(DType::i8, DType::bf16, DType::f32), Error);
  EXPECT_THROW(multiply_types(DType::u8, DType::u8, DType::f32), Error);
  EXPECT_THROW(multiply_types(DType::i8, DType::i8, DType::i32), Error);
  EXPECT_THROW(multiply_types(DType::bf16, DType::bf16, DType::f32, {.b_offset = 0.5f}), Error);
  const OwnedTensor a(DType::i8, 1, largest_i8_depth + 1), c(DType::f32, 1, 1);
  EXPECT_THROW(gemm(stream, a, Transpose::no, a, Transpose::yes, c), Error);
}

}  // namespace
}  // namespace nibble
