// Products of codes are those of the numbers that codes and scales stand for.
#include "tensor/coded_gemm.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "quant/element_format.hpp"
#include "tensor/error.hpp"
#include "tests/cuda/emulated_architecture.hpp"
#include "tests/cuda/on_device.hpp"
#include "tests/tensor/scoped_environment.hpp"

namespace nibble {
namespace {

using cuda::emulation::library_use;
using cuda::emulation::LibraryUse;
using testing::Architecture, testing::blackwell, testing::hopper;

bool has_library() { return !cuda::emulation::linked() || library_use; }

const ElementFormat& element_of(CodeFormat format) {
  return format == CodeFormat::e4m3 ? formats::e4m3 : format == CodeFormat::e5m2 ? formats::e5m2 : formats::e2m1;
}

float scale_of(BlockScales scales, uint8_t code) {
  if (scales == BlockScales::none) return 1;
  return scales == BlockScales::e8m0 ? std::ldexp(1.0f, code - 127) : formats::e4m3.value(code);
}

/// Finite codes drawn with their scales, on a device, and the numbers that they stand for, one by one.
struct CodedMatrix {
  OwnedTensor codes, scales, tiles;
  CodeMatrix there{};
  std::vector<double> values;  ///< [rows, depth]

  CodedMatrix(Stream& device, CodeFormat format, BlockScales block_scales, int64_t rows, int64_t depth, unsigned seed) {
    const ElementFormat& element = element_of(format);
    std::mt19937 generator(seed);
    // Magnitudes from 2^-3 to 4, or every one of E2M1, so that no product is lost beside another.
    const auto draw = [&] {
      for (;;) {
        const int code = static_cast<int>(generator() % static_cast<unsigned>(element.codes()));
        const float size = std::abs(element.value(code));
        if (format == CodeFormat::e2m1 || (size >= 0.125f && size <= 4)) return code;
      }
    };
    const int64_t blocks = block_scales == BlockScales::none ? 0 : depth / block_length(block_scales);
    const OwnedTensor drawn(DType::u8, rows, depth * bits_of(format) / 8, "test"),
        drawn_scales(DType::u8, rows, std::max<int64_t>(blocks, 1), "test");
    for (int64_t i = 0; i < rows * blocks; ++i)
      drawn_scales.view().as<uint8_t>()[i] =
          static_cast<uint8_t>(block_scales == BlockScales::e8m0 ? 124 + generator() % 7 : 40 + generator() % 24);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t l = 0; l < depth; ++l) {
        const int code = draw();
        uint8_t& byte = drawn.view().row<uint8_t>(i)[l * bits_of(format) / 8];
        byte = static_cast<uint8_t>(bits_of(format) == 8 ? code : byte | code << l % 2 * 4);
        const uint8_t scale = blocks > 0 ? drawn_scales.view().row<uint8_t>(i)[l / block_length(block_scales)] : 0;
        values.push_back(element.value(code) * scale_of(block_scales, scale));
      }
    codes = testing::on_device(device, drawn);
    there = {.format = format, .block_scales = block_scales, .codes = codes};
    if (blocks == 0) return;
    scales = testing::on_device(device, drawn_scales);
    tiles = OwnedTensor(DType::u8, 1, scale_tile_bytes(rows, blocks), "test", Place::device);
    tile_scales(device, scales, rows, blocks, 0, tiles);
    there.scales = tiles;
  }
};

/// A product and how far rounding may take it: each term once, in f32 (a GPU's tensor cores keep 14 bits of a sum of
/// FP8 products, coded_gemm.hpp).
struct Sum {
  double value = 0, size = 0;
};
Sum slow_sum(const CodedMatrix& a, const CodedMatrix& b, int64_t depth, int64_t i, int64_t j) {
  Sum sum;
  for (int64_t l = 0; l < depth; ++l) {
    const double product = a.values[static_cast<size_t>(i * depth + l)] * b.values[static_cast<size_t>(j * depth + l)];
    sum.value += product;
    sum.size += std::abs(product);
  }
  return sum;
}
double relative_bound(int64_t depth) {
  return cuda::emulation::linked() ? static_cast<double>(depth + 4) * 0x1p-24 : 0x1p-10;
}

struct Case {
  CodePair pair;
  int architecture;
  const char* name;
};
std::ostream& operator<<(std::ostream& out, const Case& one) { return out << one.name; }
constexpr CodeFormat e4m3 = CodeFormat::e4m3, e5m2 = CodeFormat::e5m2, e2m1 = CodeFormat::e2m1;
const Case cases[] = {{{e4m3, e4m3, BlockScales::none}, hopper, "fp8"},
                      {{e5m2, e4m3, BlockScales::none}, hopper, "fp8_of_gradients"},
                      {{e4m3, e5m2, BlockScales::none}, hopper, "fp8_the_other_way"},
                      {{e4m3, e4m3, BlockScales::none}, blackwell, "fp8_on_blackwell"},
                      {{e4m3, e4m3, BlockScales::e8m0}, blackwell, "mxfp8"},
                      {{e5m2, e4m3, BlockScales::e8m0}, blackwell, "mxfp8_of_gradients"},
                      {{e2m1, e2m1, BlockScales::e4m3}, blackwell, "nvfp4"}};

class CodedGemm : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (!has_library()) GTEST_SKIP() << "built without cublasLt.h";
    if (!multiplies_codes(device, GetParam().pair, 64, 64)) GTEST_SKIP() << "not on this GPU";
  }

  Architecture architecture{GetParam().architecture};
  Stream device{1, Place::device};
};

TEST_P(CodedGemm, IsTheProductOfWhatCodesStandFor) {
  const CodePair& pair = GetParam().pair;
  struct Shape {
    int64_t m, n, k;
  };
  enum class With { nothing, addend, itself, scales, scales_and_addend, scales_and_itself };
  for (const auto& [m, n, k] : {Shape{1, 32, 32}, {37, 64, 96}, {150, 160, 224}})
    for (const With with :
         {With::nothing, With::addend, With::itself, With::scales, With::scales_and_addend, With::scales_and_itself})
      for (const DType type : {DType::f32, DType::bf16})
        for (const int64_t padding : {0, 1})  // a c that begins anywhere
          for (const bool there : {false, true}) {
            const bool scales = with >= With::scales,
                       to_itself = with == With::itself || with == With::scales_and_itself,
                       to_addend = with == With::addend || with == With::scales_and_addend;
            if (to_itself && type == DType::bf16) continue;
            const CodedMatrix a(device, pair.a, pair.scales, m, k, 1), b(device, pair.b, pair.scales, n, k, 2);
            const testing::Twin c(device, type, m, n, padding, 3), addend(device, DType::f32, m, n, 0, 4),
                rows(device, DType::f32, 1, m, 0, 5), cols(device, DType::f32, 1, n, 0, 6);
            const OwnedTensor factor(DType::f32, 1, 1, "test");
            factor.view().as<float>()[0] = with == With::itself ? 1 : 0.375f;
            const OwnedTensor factor_there = testing::on_device(device, factor);
            Scaling scaling{.factor = there ? number_in(factor_there) : Scalar(*factor.view().as<float>())};
            if (scales) scaling.rows = rows.there, scaling.cols = cols.there;
            coded_gemm(device, a.there, b.there, c.there,
                       to_addend   ? addend.there
                       : to_itself ? c.there
                                   : Tensor(),
                       scaling);
            const OwnedTensor seen = testing::on_host(device, c.whole_there);
            const auto at = [&](const OwnedTensor& x, int64_t i, int64_t j) {
              const Tensor row = x.view().slice_rows(i, 1);
              return type == DType::bf16 ? static_cast<float>(row.as<bf16>()[j]) : row.as<float>()[j];
            };
            for (int64_t i = 0; i < m; ++i)
              for (int64_t j = -padding; j < n + padding; ++j) {
                const float value = at(seen, i, j + padding);
                if (j < 0 || j >= n) {
                  ASSERT_EQ(value, at(c.whole, i, j + padding)) << "beside c";
                  continue;
                }
                double by = *factor.view().as<float>(), more = 0;
                if (scales) by *= double{rows.here.as<float>()[i]} * double{cols.here.as<float>()[j]};
                if (to_addend) more = addend.here.row<float>(i)[j];
                if (to_itself) more = c.here.row<float>(i)[j];
                const Sum sum = slow_sum(a, b, k, i, j);
                const double expected = sum.value * by + more,
                             bound = relative_bound(k) * (sum.size * std::abs(by) + std::abs(more)) +
                                     (type == DType::bf16 ? std::abs(expected) * 0x1p-8 : 0);
                ASSERT_NEAR(value, expected, bound)
                    << m << "x" << n << "x" << k << " [" << i << ", " << j << "] with " << static_cast<int>(with)
                    << (there ? ", factor there" : "") << ", padding " << padding;
              }
          }
}

TEST_P(CodedGemm, WithARecordHasTheBitsOfTheRunThatLeftIt) {
  const CodePair& pair = GetParam().pair;
  GemmRecord record;
  std::vector<OwnedTensor> results;
  for (const bool resumed : {false, true}) {
    Stream stream(1, Place::device);
    choose_gemms(stream, record, !resumed);
    const CodedMatrix a(stream, pair.a, pair.scales, 64, 256, 1), b(stream, pair.b, pair.scales, 96, 256, 2);
    const OwnedTensor c(DType::f32, 64, 96, "test", Place::device), narrow(DType::bf16, 64, 96, "test", Place::device);
    coded_gemm(stream, a.there, b.there, c, {}, {.factor = 0.3f});
    coded_gemm(stream, a.there, b.there, narrow);
    results.push_back(testing::on_host(stream, c));
    results.push_back(testing::on_host(stream, narrow));
    if (resumed) {
      EXPECT_EQ(chosen_gemms(stream), record);
    }
    record = chosen_gemms(stream);
    EXPECT_EQ(record.size(), 2u);
  }
  EXPECT_TRUE(testing::same_bits(results[0], results[2]));
  EXPECT_TRUE(testing::same_bits(results[1], results[3]));
}

TEST_P(CodedGemm, RefusesWhatDoesNotFit) {
  const CodePair& pair = GetParam().pair;
  const CodedMatrix a(device, pair.a, pair.scales, 32, 64, 1), b(device, pair.b, pair.scales, 32, 64, 2),
      shorter(device, pair.b, pair.scales, 32, 32, 3), odd(device, pair.b, pair.scales, 24, 64, 4);
  const OwnedTensor c(DType::f32, 32, 32, "test", Place::device), of_odd(DType::f32, 32, 24, "test", Place::device);
  EXPECT_NO_THROW(coded_gemm(device, a.there, b.there, c));
  EXPECT_THROW(coded_gemm(device, a.there, shorter.there, c), Error);
  EXPECT_THROW(coded_gemm(device, a.there, odd.there, of_odd), Error);
  EXPECT_THROW(coded_gemm(device, a.there, b.there, c, {}, {.a_offset = 0.5f}), Error);
  CodeMatrix bare = b.there;
  bare.scales = {};
  if (pair.scales != BlockScales::none) {
    EXPECT_THROW(coded_gemm(device, a.there, bare, c), Error);
  }
  EXPECT_THROW(coded_gemm(device.host(), a.there, b.there, c), Error);
  device.wait();
}

INSTANTIATE_TEST_SUITE_P(Pairs, CodedGemm, ::testing::ValuesIn(cases), [](const auto& one) { return one.param.name; });

TEST(TensorCores, MultiplyWhatTheLibraryHasKernelsFor) {
  for (const Case& one : cases) {
    EXPECT_TRUE(tensor_cores_multiply(one.architecture, one.pair)) << one.name;
    EXPECT_TRUE(tensor_cores_multiply(120, one.pair)) << one.name;
    EXPECT_EQ(tensor_cores_multiply(hopper, one.pair), one.pair.scales == BlockScales::none) << one.name;
    EXPECT_FALSE(tensor_cores_multiply(80, one.pair)) << one.name;
  }
  for (const BlockScales scales : {BlockScales::none, BlockScales::e8m0, BlockScales::e4m3})
    EXPECT_FALSE(tensor_cores_multiply(120, {e5m2, e5m2, scales}));
  EXPECT_FALSE(tensor_cores_multiply(120, {e2m1, e2m1, BlockScales::e8m0}));
  EXPECT_FALSE(tensor_cores_multiply(120, {e4m3, e4m3, BlockScales::e4m3}));
  EXPECT_FALSE(tensor_cores_multiply(120, {e2m1, e2m1, BlockScales::none}));
}

TEST(TensorCores, MultiplyInWholePiecesOnDevicesUnlessAskedNotTo) {
  if (!has_library()) GTEST_SKIP() << "built without cublasLt.h";
  const CodePair fp8{e4m3, e4m3, BlockScales::none}, mxfp8{e4m3, e4m3, BlockScales::e8m0};
  const Architecture architecture(blackwell);
  const Stream device(1, Place::device);
  Stream host(1);
  EXPECT_FALSE(multiplies_codes(host, fp8, 64, 64));
  EXPECT_TRUE(multiplies_codes(device, fp8, 48, 16));
  EXPECT_FALSE(multiplies_codes(device, fp8, 40, 16));
  EXPECT_FALSE(multiplies_codes(device, fp8, 48, 24));
  EXPECT_FALSE(multiplies_codes(device, fp8, 48, 0));
  EXPECT_FALSE(multiplies_codes(device, mxfp8, 64, 48));
  {
    const ScopedEnvironment scope("NIBBLE_GEMM", "emulated");
    EXPECT_FALSE(multiplies_codes(device, fp8, 64, 64));
    EXPECT_NE(gemm_library(device, DType::u8).find("widened"), std::string::npos);
  }
  EXPECT_EQ(gemm_library(device, DType::u8), gemm_library(device, DType::bf16));
  const ScopedEnvironment unknown("NIBBLE_GEMM", "emulate");
  EXPECT_THROW(multiplies_codes(device, fp8, 64, 64), Error);
}

}  // namespace
}  // namespace nibble
