// Products of quantized operands: whole numbers, whose sums are exact in any order, so that every path must give the
// bits of one sum for each element, scaled, added to and rounded in the documented order.
#include <gtest/gtest.h>

#include <cstdlib>
#include <ostream>
#include <string>
#include <vector>

#include "tensor/error.hpp"
#include "tensor/gemm.hpp"
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
      if (x.dtype == DType::bf16) x.row<bf16>(i)[j] = bf16(static_cast<float>(value));
      else x.row<float>(i)[j] = static_cast<float>(value);
    }
}

double element(const Tensor& x, int64_t i, int64_t j) {
  return x.dtype == DType::bf16 ? static_cast<float>(x.row<bf16>(i)[j]) : x.row<float>(i)[j];
}

enum class Addend { none, destination, other };

/// One product with everything in place, and what it must give.
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

  void expect(Stream& stream, Addend which, const Scaling& scaling, const std::string& label) const {
    fill(c, 3);
    const Tensor addend = which == Addend::none ? Tensor() : which == Addend::destination ? c : other;
    const OwnedTensor before(DType::f32, c.rows, c.cols);
    for (int64_t i = 0; i < c.rows; ++i)
      for (int64_t j = 0; j < c.cols; ++j)
        before.view().row<float>(i)[j] = addend ? static_cast<float>(element(addend, i, j)) : 0.0f;
    gemm(stream, a, Transpose(transpose_a_), b, Transpose(transpose_b_), c, addend, scaling);
    for (int64_t i = 0; i < c.rows; ++i)
      for (int64_t j = i % 3; j < c.cols; j += 3) {
        float x = static_cast<float>(sum(i, j)) * scaling.factor;
        if (scaling.rows) x = x * scaling.rows.as<float>()[i];
        if (scaling.cols) x = x * scaling.cols.as<float>()[j];
        if (addend) x = x + before.view().row<float>(i)[j];
        const double expected = c.dtype == DType::bf16 ? static_cast<float>(bf16(x)) : x;
        ASSERT_EQ(element(c, i, j), expected) << i << ", " << j << " " << label;
      }
  }

  Tensor a, b, c, other, rows, cols;

 private:
  double sum(int64_t i, int64_t j) const {
    double total = 0;
    for (int64_t l = 0; l < depth_; ++l)
      total +=
          (transpose_a_ ? element(a, l, i) : element(a, i, l)) * (transpose_b_ ? element(b, j, l) : element(b, l, j));
    return total;
  }
  Arena arena_;
  bool transpose_a_, transpose_b_;
  int64_t depth_;
};

/// Both ways to multiply, where the processor has both.
std::vector<const char*> libraries(const Stream& stream) {
  return stream.isa() == Isa::avx512 ? std::vector{"packed", "onednn"} : std::vector{"onednn"};
}

struct Shape {
  int64_t m, n, k;
};
void PrintTo(const Shape& shape, std::ostream* out) { *out << shape.m << "x" << shape.n << "x" << shape.k; }

class ScaledGemm : public ::testing::TestWithParam<Shape> {};

TEST_P(ScaledGemm, MultipliesByFactorRowAndColumnThenAddsThenRounds) {
  const auto [m, n, k] = GetParam();
  Stream stream(2);
  for (const char* library : libraries(stream)) {
    const ScopedEnvironment scope("NIBBLE_GEMM", library);
    for (const DType in : {DType::f32, DType::bf16})
      for (const DType out : {DType::f32, DType::bf16})
        for (const bool ta : {false, true})
          for (const bool tb : {false, true}) {
            if (in == DType::f32 && out == DType::bf16) continue;
            const Problem problem(m, n, k, ta, tb, in, out);
            for (const Addend addend : {Addend::none, Addend::destination, Addend::other}) {
              if (addend == Addend::destination && out == DType::bf16) continue;
              for (const Scaling& scaling :
                   {Scaling{}, Scaling{.factor = 0.3f}, Scaling{.rows = problem.rows}, Scaling{.cols = problem.cols},
                    Scaling{.factor = -1.7f, .rows = problem.rows, .cols = problem.cols}})
                problem.expect(stream, addend, scaling,
                               std::string(library) + (ta ? " T" : " N") + (tb ? "T " : "N ") + std::string(name(in)) +
                                   ">" + std::string(name(out)));
            }
          }
  }
}
INSTANTIATE_TEST_SUITE_P(Shapes, ScaledGemm,
                         ::testing::Values(Shape{1, 1, 1}, Shape{17, 33, 2}, Shape{48, 64, 20}, Shape{61, 35, 600},
                                           Shape{1, 40, 70}, Shape{50, 1, 300}));

TEST(ScaledGemmErrors, ScalesThatDoNotFit) {
  Stream stream(1);
  const Problem problem(20, 30, 10, false, false, DType::f32, DType::f32);
  const auto multiply = [&](const Scaling& scaling) {
    gemm(stream, problem.a, Transpose::no, problem.b, Transpose::no, problem.c, {}, scaling);
  };
  EXPECT_NO_THROW(multiply({.rows = problem.rows, .cols = problem.cols}));
  EXPECT_THROW(multiply({.rows = problem.cols}), Error);
  EXPECT_THROW(multiply({.cols = problem.rows}), Error);
  EXPECT_THROW(multiply({.cols = OwnedTensor(DType::bf16, 1, 30)}), Error);
  EXPECT_THROW(multiply({.rows = OwnedTensor(DType::f32, 20, 1)}), Error);
}

}  // namespace
}  // namespace nibble
