// Packed weights: the bytes are what training multiplies, what they stand for is what the format says, and what the
// compressed-tensors package makes of the same weights.
#include "trainer/packed_weights.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "quant/linear.hpp"
#include "quant/quantizers.hpp"
#include "tests/trainer/expect_error.hpp"
#include "trainer/safetensors.hpp"

namespace nibble {
namespace {

std::span<const std::byte> bytes_of(const Tensor& tensor) {
  return {static_cast<const std::byte*>(tensor.data), tensor.bytes()};
}

/// Gaussian rows of different size, with a row of zeros and a block of zeros.
OwnedTensor weights(int64_t rows, int64_t cols) {
  OwnedTensor w(DType::bf16, rows, cols);
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) {
      const bool zero = i == 5 || (i == 3 && j < 32);
      w.view().row<bf16>(i)[j] = bf16(zero ? 0.0f : std::ldexp(normal(random), static_cast<int>(i % 7) - 8));
    }
  return w;
}

/// What a linear layer of that forward recipe multiplies in w's place: its product with the identity, [out, in].
std::vector<float> multiplied(Stream& stream, const Recipe& recipe, const Tensor& w) {
  Recipe alone{.name = recipe.name, .forward = recipe.forward};
  alone.forward.input = {};
  const auto linear = make_linear(alone, {.name = "w", .in = w.cols, .out = w.rows});
  const OwnedTensor x(DType::bf16, w.cols, w.cols), y(DType::f32, w.cols, w.rows), zero(DType::f32, w.cols, w.rows),
      scratch(DType::u8, 1, static_cast<int64_t>(linear->scratch_bytes(stream, w.cols)));
  for (int64_t i = 0; i < w.cols; ++i) x.view().row<bf16>(i)[i] = bf16(1.0f);
  linear->forward(stream, {}, x, w, y, zero, nullptr, scratch);
  std::vector<float> values;
  for (int64_t i = 0; i < w.rows; ++i)
    for (int64_t j = 0; j < w.cols; ++j) values.push_back(y.view().row<float>(j)[i]);
  return values;
}

/// A slow decoder that shares nothing with the program's: codes times the scale of their block, or of their row.
float element(PackedFormat format, uint8_t code) {
  static constexpr float fp4[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  if (format == PackedFormat::int8) return static_cast<float>(static_cast<int8_t>(code));
  if (format != PackedFormat::fp8) return code & 8u ? -fp4[code & 7u] : fp4[code & 7u];
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  const float size = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                   : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return code & 128u ? -size : size;
}
std::vector<float> codes_times_scales(const Quantizer& quantizer, const PackedRows& packed) {
  const PackedFormat format = *format_of(quantizer);
  const Tensor &codes = packed.codes, &scales = packed.scales, &row_scales = packed.row_scales;
  const int64_t per_byte = 8 / quantizer.element->bits();
  std::vector<float> values;
  for (int64_t i = 0; i < codes.rows; ++i)
    for (int64_t j = 0; j < codes.cols * per_byte; ++j) {
      const uint8_t byte = codes.row<uint8_t>(i)[j / per_byte];
      const uint8_t code = per_byte == 1 ? byte : j % 2 == 0 ? byte & 15 : byte >> 4;
      float scale = 1;
      if (scales) {
        const uint8_t stored = scales.row<uint8_t>(i)[j / quantizer.group];
        scale = format == PackedFormat::mxfp4 ? std::ldexp(1.0f, stored - 127) : element(PackedFormat::fp8, stored);
      }
      if (row_scales) scale = row_scales.as<float>()[i];
      values.push_back(element(format, code) * scale);
    }
  return values;
}

/// The bytes as a file has them.
StoredRows stored_rows(const PackedRows& packed, float tensor_scale) {
  const Tensor& scales = packed.scales.view() ? packed.scales.view() : packed.row_scales.view();
  return {bytes_of(packed.codes), bytes_of(scales), tensor_scale};
}

class PackedRecipes : public testing::TestWithParam<const char*> {};

// Bit for bit. Of NVFP4 that holds for code times block scale times the tensor's scale; the file has that scale's
// reciprocal, the nearest f32, so what is read there may differ in the last bits of an f32.
TEST_P(PackedRecipes, HaveTheBytesThatTrainingMultiplies) {
  Stream stream(1);
  const Recipe recipe = find_recipe(GetParam());
  const Quantizer& q = recipe.forward.weight;
  const PackedFormat format = format_of(q).value();
  const OwnedTensor w = weights(48, 64);
  const float magnitude = packed_magnitude(stream, w, "w");
  const PackedRows packed = pack_rows(stream, q, w, magnitude);
  const std::vector<float> expected = multiplied(stream, recipe, w), exact = codes_times_scales(q, packed);
  for (size_t i = 0; i < expected.size(); ++i) ASSERT_EQ(exact[i] * packed.tensor_scale, expected[i]) << i;

  const float stored = stored_tensor_scale(format, packed.tensor_scale, "w");
  const OwnedTensor read(DType::f32, 48, 64);
  unpack_rows(format, stored_rows(packed, stored), read);
  for (size_t i = 0; i < expected.size(); ++i) {
    const float value = read.view().as<float>()[i];
    if (format == PackedFormat::nvfp4)
      ASSERT_LE(std::fabs(value - expected[i]), 2.5 * 0x1p-24 * std::fabs(expected[i])) << i;
    else ASSERT_EQ(value, expected[i]) << i;
  }
}

// As an exporter packs q, k and v, which training quantizes together: parts under the magnitude of all of them.
TEST_P(PackedRecipes, HaveTheSameBytesInParts) {
  Stream stream(1);
  const Quantizer q = find_recipe(GetParam()).forward.weight;
  const OwnedTensor w = weights(64, 96);
  const float magnitude = packed_magnitude(stream, w, "w");
  const PackedRows whole = pack_rows(stream, q, w, magnitude);
  for (const int64_t first : {0, 16, 48}) {
    const int64_t rows = first == 16 ? 32 : 16;
    const PackedRows part = pack_rows(stream, q, w.view().slice_rows(first, rows), magnitude);
    const auto equal = [&](const OwnedTensor& a, const OwnedTensor& b) {
      const Tensor slice = a.view() ? a.view().slice_rows(first, rows) : a.view();
      return std::ranges::equal(bytes_of(slice), bytes_of(b));
    };
    EXPECT_TRUE(equal(whole.codes, part.codes)) << first;
    EXPECT_TRUE(equal(whole.scales, part.scales)) << first;
    EXPECT_EQ(whole.tensor_scale, part.tensor_scale);
  }
}

INSTANTIATE_TEST_SUITE_P(All, PackedRecipes,
                         testing::Values("quartet2", "quartet2-rtn", "nvfp4-nvidia", "nvfp4-nvidia-4over6", "mxfp4-rtn",
                                         "fp8", "fp8-row", "halo0-int8", "ste-w8a8"),
                         [](const auto& given) {
                           std::string name = given.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

struct Fixture {
  const char* name;
  PackedFormat format;
  Quantizer quantizer;
  const char *codes, *decoded;
};

class PackedByThePackage : public testing::TestWithParam<Fixture> {
 protected:
  std::string tensor(const char* suffix) const { return std::string(GetParam().name) + "." + suffix; }
  const SafetensorsFile file{std::string(NIBBLE_TEST_DATA) + "/trainer/data/packed/compressed_tensors.safetensors"};
};

TEST_P(PackedByThePackage, IsReadAsThePackageReadsIt) {
  const auto& [name, format, quantizer, codes, decoded] = GetParam();
  StoredRows stored{.codes = file.bytes(tensor(codes)), .scales = {}};
  const bool tensor_scale = quantizer.extent == Extent::tensor;
  if (!tensor_scale) stored.scales = file.bytes(tensor("weight_scale"));
  if (tensor_scale || format == PackedFormat::nvfp4)
    std::memcpy(&stored.tensor_scale, file.bytes(tensor(tensor_scale ? "weight_scale" : "weight_global_scale")).data(),
                sizeof(float));
  const OwnedTensor read(DType::f32, 16, 64), expected(DType::f32, 16, 64);
  unpack_rows(format, stored, read);
  file.read(tensor(decoded), expected);
  for (int64_t i = 0; i < read.view().size(); ++i)
    ASSERT_EQ(std::bit_cast<uint32_t>(read.view().as<float>()[i]),
              std::bit_cast<uint32_t>(expected.view().as<float>()[i]))
        << i;
}

TEST_P(PackedByThePackage, HasTheNamesAndShapesOfThePackage) {
  const auto& [name, format, quantizer, codes, decoded] = GetParam();
  for (const PackedTensor& part : packed_tensors(quantizer, 16, 64)) {
    ASSERT_TRUE(file.contains(tensor(part.suffix.c_str()))) << part.suffix;
    const SafetensorsEntry& entry = file.entry(tensor(part.suffix.c_str()));
    EXPECT_EQ(entry.dtype, part.dtype) << part.suffix;
    EXPECT_EQ(entry.shape, part.shape) << part.suffix;
  }
}

// It finds scales with a reciprocal, so that ties of E4M3 fall otherwise: none is among these weights. A block of zeros
// has another scale there.
TEST_P(PackedByThePackage, IsPackedAsThePackagePacksIt) {
  Stream stream(1);
  const auto& [name, format, quantizer, codes, decoded] = GetParam();
  const OwnedTensor w(DType::bf16, 16, 64), expected(DType::f32, 16, 64), read(DType::f32, 16, 64);
  file.read("weight", w);
  file.read(tensor(decoded), expected);
  const PackedRows packed = pack_rows(stream, quantizer, w, packed_magnitude(stream, w, "w"));
  unpack_rows(format, stored_rows(packed, stored_tensor_scale(format, packed.tensor_scale, "w")), read);
  int64_t others = 0;
  for (int64_t i = 0; i < read.view().size(); ++i) {
    const float a = read.view().as<float>()[i], b = expected.view().as<float>()[i];
    others += std::fabs(a - b) > 1e-6f * std::fabs(b) ? 1 : 0;
  }
  EXPECT_EQ(others, 0);
}

INSTANTIATE_TEST_SUITE_P(
    All, PackedByThePackage,
    testing::Values(
        Fixture{"nvfp4", PackedFormat::nvfp4, quantizers::nvfp4, "weight_packed", "decoded"},
        Fixture{"mxfp4", PackedFormat::mxfp4, quantizers::mx(formats::e2m1, quantizers::MxScale::even), "weight_packed",
                "decoded"},
        Fixture{"fp8_channel", PackedFormat::fp8, quantizers::per_row(formats::e4m3), "weight", "decoded"},
        Fixture{"fp8_tensor", PackedFormat::fp8, quantizers::per_tensor(formats::e4m3), "weight", "decoded"},
        Fixture{"int8_channel", PackedFormat::int8, quantizers::per_row(formats::int8), "weight", "decoded"}),
    [](const auto& given) { return std::string(given.param.name); });

// Sixteen values and a ramp whose bytes the reference on formats works out (its section 6.5).
TEST(PackedWeights, HaveTheBytesOfTheWorkedExamples) {
  Stream stream(1);
  // The example's values are multiples of 0.005, whose ties f32 decides either way; of 2^-8 they stay ties.
  const float steps[] = {2, -4, 6, -8, 10, -12, 14, -16, 18, -20, 22, -24, 0, 1, -1, 24};
  OwnedTensor values(DType::f32, 1, 16);
  for (int64_t j = 0; j < 16; ++j) values.view().as<float>()[j] = std::ldexp(steps[j], -8);
  const PackedRows nv = pack_rows(stream, quantizers::nvfp4, values, 24.0f / 256);
  const uint8_t nv_codes[] = {0xa1, 0xc3, 0xd4, 0xe6, 0xe6, 0xf7, 0x00, 0x78};
  for (int64_t j = 0; j < 8; ++j) EXPECT_EQ(nv.codes.view().as<uint8_t>()[j], nv_codes[j]) << j;
  EXPECT_EQ(nv.scales.view().as<uint8_t>()[0], 0x7e) << "448";
  EXPECT_FLOAT_EQ(stored_tensor_scale(PackedFormat::nvfp4, nv.tensor_scale, ""), 448 * 6 / (24.0f / 256));

  OwnedTensor ramp(DType::f32, 1, 32);
  for (int64_t j = 0; j < 32; ++j) ramp.view().as<float>()[j] = (static_cast<float>(j) - 15.5f) / 4;
  const PackedRows mx = pack_rows(stream, default_quantizer(PackedFormat::mxfp4), ramp, 4);
  const uint8_t mx_codes[] = {0xff, 0xff, 0xff, 0xee, 0xde, 0xcd, 0xac, 0x8a,
                              0x20, 0x42, 0x54, 0x65, 0x66, 0x77, 0x77, 0x77};
  EXPECT_EQ(mx.scales.view().as<uint8_t>()[0], 0x7e);
  for (int64_t j = 0; j < 16; ++j) EXPECT_EQ(mx.codes.view().as<uint8_t>()[j], mx_codes[j]) << j;
}

TEST(PackedWeights, RefuseWhatIsNotFinite) {
  Stream stream(1);
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    const OwnedTensor w = weights(16, 32);
    w.view().row<bf16>(9)[31] = bf16(bad);
    expect_error(ErrorKind::numerics, {"layers.0.down", "infinite or not a number"},
                 [&] { packed_magnitude(stream, w, "layers.0.down"); });
  }
  expect_error(ErrorKind::numerics, {"layers.0.down", "global scale"},
               [&] { stored_tensor_scale(PackedFormat::nvfp4, 1e-39f, "layers.0.down"); });
  EXPECT_EQ(stored_tensor_scale(PackedFormat::fp8, 1e-39f, ""), 1e-39f);
}

TEST(PackedWeights, RefuseWidthsThatBlocksDoNotDivide) {
  expect_error(ErrorKind::configuration, {"nvfp4", "layers.0.down", "72 input features", "a multiple of 16"},
               [] { require_packable(PackedFormat::nvfp4, 72, "layers.0.down"); });
  expect_error(ErrorKind::configuration, {"mxfp4", "48 input features", "a multiple of 32"},
               [] { require_packable(PackedFormat::mxfp4, 48, "layers.0.down"); });
  expect_error(ErrorKind::configuration, {"fp8", "36 input features", "a multiple of 8"},
               [] { require_packable(PackedFormat::fp8, 36, "layers.0.down"); });
  require_packable(PackedFormat::nvfp4, 48, "");
  require_packable(PackedFormat::int8, 8, "");
}

}  // namespace
}  // namespace nibble
