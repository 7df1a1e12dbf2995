// gemm() on a device: of whole numbers, whose sums are exact in any order, the host's bits.
#include "tensor/gemm.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "tensor/error.hpp"
#include "tensor/random.hpp"
#include "tests/cuda/on_device.hpp"

namespace nibble {
namespace {

constexpr int32_t largest = 9;  ///< of a float operand

OwnedTensor whole_numbers(DType type, int64_t rows, int64_t cols, uint32_t seed) {
  OwnedTensor drawn(type, rows, cols, "test");
  const RandomStream random(5, Purpose::initialization, 0, seed);
  for (int64_t i = 0; i < rows * cols; ++i) {
    const uint32_t bits = random.word(static_cast<uint64_t>(i));
    const auto value = static_cast<float>(static_cast<int32_t>(bits % (2 * largest + 1)) - largest);
    if (type == DType::i8) drawn.view().as<int8_t>()[i] = static_cast<int8_t>(bits >> 24);
    else if (type == DType::bf16) drawn.view().as<bf16>()[i] = bf16(value);
    else drawn.view().as<float>()[i] = value;
  }
  return drawn;
}

/// A matrix on both sides, with `padding` rows and columns around it that must stay as they are.
struct Both {
  OwnedTensor whole, whole_there;
  Tensor here, there;

  Both(Stream& device, DType type, int64_t rows, int64_t cols, int64_t padding, uint32_t seed)
      : whole(whole_numbers(type, rows + 2 * padding, cols + 2 * padding, seed)),
        whole_there(testing::on_device(device, whole)),
        here(whole.view().slice_rows(padding, rows).slice_cols(padding, cols)),
        there(whole_there.view().slice_rows(padding, rows).slice_cols(padding, cols)) {}
};

enum class Addend { none, destination, other };

/// What goes with the operands; `factor_there` is a factor on the device.
struct Way {
  DType in, out;
  bool transpose_a, transpose_b;
  Addend addend;
  bool rows, cols, factor_there;
  float factor, a_offset, b_offset;
};

struct Shape {
  int64_t m, n, k, padding;
};

void expect_the_hosts_bits(Stream& device, const Shape& shape, const Way& way) {
  const auto& [m, n, k, padding] = shape;
  Both a(device, way.in, way.transpose_a ? k : m, way.transpose_a ? m : k, padding, 1),
      b(device, way.in, way.transpose_b ? n : k, way.transpose_b ? k : n, padding, 2),
      c(device, way.out, m, n, padding, 3), other(device, DType::f32, m, n, padding, 4),
      rows(device, DType::f32, 1, m, padding, 5), cols(device, DType::f32, 1, n, padding, 6),
      factor(device, DType::f32, 1, 1, 0, 7);
  const auto multiply = [&](Stream& stream, Tensor Both::*side, const Scalar& by) {
    Scaling scaling{.factor = by, .a_offset = way.a_offset, .b_offset = way.b_offset};
    if (way.rows) scaling.rows = rows.*side;
    if (way.cols) scaling.cols = cols.*side;
    const Tensor addend = way.addend == Addend::none          ? Tensor()
                          : way.addend == Addend::destination ? c.*side
                                                              : other.*side;
    gemm(stream, a.*side, Transpose(way.transpose_a), b.*side, Transpose(way.transpose_b), c.*side, addend, scaling);
  };
  factor.here.as<float>()[0] = way.factor;
  copy(device, factor.here, factor.there);
  multiply(device.host(), &Both::here, way.factor);
  multiply(device, &Both::there, way.factor_there ? Scalar::at(factor.there.on_device<float>()) : Scalar(way.factor));
  ASSERT_TRUE(testing::same_bits(testing::on_host(device, c.whole_there), c.whole))
      << m << "x" << n << "x" << k << " padding " << padding << " " << name(way.in) << ">" << name(way.out) << " "
      << way.transpose_a << way.transpose_b << " addend " << static_cast<int>(way.addend) << " scales " << way.rows
      << way.cols << " factor " << way.factor << (way.factor_there ? " there" : "") << " offsets " << way.a_offset
      << ", " << way.b_offset;
}

class GemmOnDevice : public ::testing::TestWithParam<Shape> {};

TEST_P(GemmOnDevice, HasTheHostsBits) {
  Stream device(1, Place::device);
  choose_gemms(device, {}, true);  // so that several algorithms multiply
  for (const DType in : {DType::f32, DType::bf16, DType::i8})
    for (const DType out : {DType::f32, DType::bf16})
      for (const bool transpose_a : {false, true})
        for (const bool transpose_b : {false, true})
          for (const Addend addend : {Addend::none, Addend::destination, Addend::other}) {
            if (out == DType::bf16 && (in == DType::f32 || addend == Addend::destination)) continue;
            const auto expect = [&](bool rows, bool cols, bool there, float factor, float a_offset, float b_offset) {
              expect_the_hosts_bits(
                  device, GetParam(),
                  {in, out, transpose_a, transpose_b, addend, rows, cols, there, factor, a_offset, b_offset});
            };
            expect(false, false, false, 1, 0, 0);
            if (addend == Addend::destination) continue;  // from here on as another
            expect(false, false, true, 0.3f, 0, 0);
            expect(true, true, false, -1.7f, 0, 0);
            if (in != DType::i8) continue;
            expect(false, false, false, 1, 0.5f, 0);
            expect(false, true, true, 0.1f, 0.5f, -0.5f);
          }
}
INSTANTIATE_TEST_SUITE_P(Shapes, GemmOnDevice,
                         ::testing::Values(Shape{1, 1, 1, 0}, Shape{16, 32, 48, 0}, Shape{17, 33, 2, 3},
                                           Shape{32, 64, 64, 16}, Shape{1, 40, 70, 1}, Shape{50, 1, 300, 0},
                                           Shape{66, 34, 129, 5}),
                         [](const auto& one) {
                           const Shape& shape = one.param;
                           return std::to_string(shape.m) + "x" + std::to_string(shape.n) + "x" +
                                  std::to_string(shape.k);
                         });

TEST(GemmOnDeviceToo, AnotherFactorIsSeen) {
  Stream device(1, Place::device);
  Both a(device, DType::bf16, 8, 8, 0, 1), c(device, DType::f32, 8, 8, 0, 3);
  gemm(device.host(), a.here, Transpose::no, a.here, Transpose::yes, c.here, {}, {.factor = 0.3f});
  gemm(device, a.there, Transpose::no, a.there, Transpose::yes, c.there, {}, {.factor = 0.30000004f});
  EXPECT_FALSE(testing::same_bits(testing::on_host(device, c.there), c.here));
}

TEST(GemmOnDeviceToo, OfNothingIsNothing) {
  Stream device(1, Place::device);
  Both c(device, DType::f32, 4, 5, 0, 3), addend(device, DType::f32, 4, 5, 0, 4);
  const Tensor a = addend.there.slice_cols(0, 0), b = addend.there.slice_rows(0, 0);
  gemm(device, a, Transpose::no, b, Transpose::no, c.there, addend.there);
  EXPECT_TRUE(testing::same_bits(testing::on_host(device, c.there), addend.here));
  gemm(device, a, Transpose::no, b, Transpose::no, c.there);
  const OwnedTensor zeros(DType::f32, 4, 5);
  EXPECT_TRUE(testing::same_bits(testing::on_host(device, c.there), zeros));
  gemm(device, b, Transpose::no, addend.there, Transpose::yes, c.there.slice_rows(0, 0).slice_cols(0, 4));
  EXPECT_TRUE(testing::same_bits(testing::on_host(device, c.there), zeros));
}

TEST(GemmOnDeviceToo, SumsOfTheLargestCodesAreExact) {
  Stream device(1, Place::device);
  OwnedTensor codes(DType::i8, 4, largest_i8_depth), expected(DType::f32, 4, 4);
  std::memset(codes.view().data, -128, codes.view().bytes());
  std::fill_n(expected.view().as<float>(), 16, static_cast<float>(largest_i8_depth) * 16384.0f);
  const OwnedTensor there = testing::on_device(device, codes), c(DType::f32, 4, 4, "test", Place::device);
  gemm(device, there, Transpose::no, there, Transpose::yes, c);
  EXPECT_TRUE(testing::same_bits(testing::on_host(device, c), expected));
}

TEST(GemmOnDeviceToo, RefusesWhatDoesNotFit) {
  Stream device(1, Place::device);
  Both a(device, DType::f32, 4, 5, 0, 1), c(device, DType::f32, 4, 4, 0, 3);
  EXPECT_THROW(gemm(device, a.there, Transpose::no, a.there, Transpose::no, c.there), Error);
}

TEST(GemmOnDeviceToo, HasANameAndWorkingMemory) {
  Stream device(1, Place::device);
  EXPECT_FALSE(gemm_library(device, DType::bf16).empty());
  EXPECT_GE(gemm_scratch_bytes(device, DType::i8, 100, 100, 100), gemm_scratch_bytes(device, DType::bf16, 100, 100, 0));
}

/// What a run that is resumed gets, with whichever library multiplies.
TEST(GemmOnDeviceToo, WithARecordHasTheBitsOfTheRunThatLeftIt) {
  GemmRecord record;
  std::vector<OwnedTensor> results;
  for (const bool resumed : {false, true}) {
    Stream device(1, Place::device);
    choose_gemms(device, record, !resumed);
    for (const DType in : {DType::f32, DType::bf16}) {
      const OwnedTensor a = testing::on_device(device, testing::drawn(in, 200, 1000, 1)),
                        b = testing::on_device(device, testing::drawn(in, 136, 1000, 2)),
                        c = testing::on_device(device, testing::drawn(DType::f32, 200, 136, 3));
      gemm(device, a, Transpose::no, b, Transpose::yes, c);
      gemm(device, a, Transpose::no, b, Transpose::yes, c, c);
      results.push_back(testing::on_host(device, c));
    }
    if (resumed) {
      EXPECT_EQ(chosen_gemms(device), record);
    }
    record = chosen_gemms(device);
  }
  EXPECT_TRUE(testing::same_bits(results[0], results[2]));
  EXPECT_TRUE(testing::same_bits(results[1], results[3]));
}

}  // namespace
}  // namespace nibble
