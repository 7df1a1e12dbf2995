// GEMM against a triple loop in double: every transpose, type, addend, ragged shape and stride.
#include "tensor/gemm.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "tensor/convert.hpp"
#include "tensor/cpu/onednn_gemm.hpp"
#include "tensor/error.hpp"
#include "tensor/random.hpp"
#include "tests/tensor/scoped_environment.hpp"

namespace nibble {
namespace {

void fill(Stream& stream, const Tensor& x, uint32_t tensor) {
  const RandomStream random(7, Purpose::initialization, 0, tensor);
  const OwnedTensor values(DType::f32, x.rows, x.cols);
  for (int64_t i = 0; i < x.size(); ++i) values.view().as<float>()[i] = random.normal_pair(i)[0];
  convert(stream, values, x);
}

double element(const Tensor& x, int64_t i, int64_t j) {
  return x.dtype == DType::bf16 ? static_cast<float>(x.row<bf16>(i)[j]) : x.row<float>(i)[j];
}

struct Case {
  int64_t m, n, k;
  bool transpose_a, transpose_b;
  DType in, out;
  int addend;  // 0 none, 1 destination, 2 other
};

class Gemm : public ::testing::TestWithParam<Case> {};

TEST_P(Gemm, AgreesWithTripleLoop) {
  const Case& shape = GetParam();
  Stream stream(2);
  Tensor a, b, c, other;
  const Arena arena("test", [&](Arena& memory) {
    a = shape.transpose_a ? memory.take(shape.in, shape.k, shape.m) : memory.take(shape.in, shape.m, shape.k);
    b = shape.transpose_b ? memory.take(shape.in, shape.n, shape.k) : memory.take(shape.in, shape.k, shape.n);
    c = memory.take(shape.out, shape.m, shape.n);
    other = memory.take(DType::f32, shape.m, shape.n);
  });
  fill(stream, a, 1);
  fill(stream, b, 2);
  fill(stream, c, 3);
  fill(stream, other, 4);
  const OwnedTensor before(DType::f32, shape.m, shape.n);
  convert(stream, c, before);
  const Tensor addend = shape.addend == 0 ? Tensor() : shape.addend == 1 ? c : other;
  gemm(stream, a, Transpose(shape.transpose_a), b, Transpose(shape.transpose_b), c, addend);
  for (int64_t i = 0; i < shape.m; ++i)
    for (int64_t j = 0; j < shape.n; ++j) {
      double sum = shape.addend == 1 ? element(before, i, j) : shape.addend == 2 ? element(other, i, j) : 0;
      double size = std::abs(sum);
      for (int64_t l = 0; l < shape.k; ++l) {
        const double product = (shape.transpose_a ? element(a, l, i) : element(a, i, l)) *
                               (shape.transpose_b ? element(b, j, l) : element(b, l, j));
        sum += product;
        size += std::abs(product);
      }
      const double bound = size * 1e-6 + (shape.out == DType::bf16 ? std::abs(sum) * 0x1p-8 : 0);
      ASSERT_NEAR(element(c, i, j), sum, bound) << i << ", " << j;
    }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto [m, n, k] : {std::array<int64_t, 3>{64, 96, 32}, {33, 17, 65}, {1, 259, 40}, {128, 1, 7}})
    for (const bool ta : {false, true})
      for (const bool tb : {false, true}) {
        for (int addend = 0; addend < 3; ++addend) {
          all.push_back({m, n, k, ta, tb, DType::f32, DType::f32, addend});
          all.push_back({m, n, k, ta, tb, DType::bf16, DType::f32, addend});
        }
        all.push_back({m, n, k, ta, tb, DType::bf16, DType::bf16, 0});
      }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Shapes, Gemm, ::testing::ValuesIn(cases()));

TEST(GemmInTask, GivesTheSameOnEveryThread) {
  Stream stream(2);
  constexpr int64_t size = 48, tasks = 16;
  const OwnedTensor a(DType::f32, size, size), b(DType::f32, size, size), c(DType::f32, tasks * size, size);
  fill(stream, a, 1);
  fill(stream, b, 2);
  parallel_tasks(stream, tasks, [&](int64_t task, int64_t) {
    gemm_in_task(stream, a, Transpose::no, b, Transpose::yes, c.view().slice_rows(task * size, size));
  });
  const float* first = c.view().as<float>();
  for (int64_t task = 1; task < tasks; ++task)
    for (int64_t i = 0; i < size * size; ++i) ASSERT_EQ(first[i], first[task * size * size + i]);
}

TEST(OneDnnIsa, GoesByItsWidestKnownPart) {
  const int granite_rapids = 0x1fef, sapphire_rapids = 0xfef, avx512_fp16 = 0x1ef, avx2_vnni = 0xf;  // of oneDNN 3.x
  for (const int isa : {granite_rapids, sapphire_rapids}) {
    EXPECT_TRUE(onednn_isa_has_amx(isa));
    EXPECT_EQ(onednn_isa_name(isa), "AMX");
  }
  EXPECT_FALSE(onednn_isa_has_amx(avx512_fp16));
  EXPECT_EQ(onednn_isa_name(avx512_fp16), "AVX-512 bf16");
  EXPECT_FALSE(onednn_isa_has_amx(avx2_vnni));
  EXPECT_EQ(onednn_isa_name(avx2_vnni), "AVX2");
  EXPECT_EQ(onednn_isa_name(0), "instruction set 0x0");
}

TEST(GemmChoice, FollowsTheEnvironmentAndRefusesWhatItDoesNotKnow) {
  Stream stream(1);
  const OwnedTensor a(DType::bf16, 32, 40), b(DType::bf16, 40, 32), c(DType::f32, 32, 32);
  const auto multiply = [&] { gemm(stream, a, Transpose::no, b, Transpose::no, c); };
  {
    const ScopedEnvironment scope("NIBBLE_GEMM", "onednn");
    EXPECT_EQ(gemm_library(stream, DType::bf16).rfind("oneDNN ", 0), 0u);
    EXPECT_NO_THROW(multiply());
  }
  {
    const std::string usual = gemm_library(stream, DType::bf16);
    const ScopedEnvironment scope("NIBBLE_GEMM", "emulated");  // is for devices
    EXPECT_EQ(gemm_library(stream, DType::bf16), usual);
  }
  const ScopedEnvironment scope("NIBBLE_GEMM", "packed");
  if (stream.isa() == Isa::avx512) EXPECT_EQ(gemm_library(stream, DType::bf16).rfind("packed ", 0), 0u);
  else EXPECT_THROW(multiply(), Error);
  const ScopedEnvironment unknown("NIBBLE_GEMM", "fastest");
  EXPECT_THROW(multiply(), Error);
}

TEST(GemmErrors, ShapesThatDoNotFit) {
  Stream stream(1);
  const OwnedTensor a(DType::f32, 4, 5), b(DType::f32, 4, 5), c(DType::f32, 4, 4), narrow(DType::bf16, 4, 4);
  EXPECT_THROW(gemm(stream, a, Transpose::no, b, Transpose::no, c), Error);
  EXPECT_THROW(gemm(stream, a, Transpose::no, b, Transpose::yes, narrow), Error);
  EXPECT_NO_THROW(gemm(stream, a, Transpose::no, b, Transpose::yes, c));
}

}  // namespace
}  // namespace nibble
