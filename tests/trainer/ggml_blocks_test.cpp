// ggml's blocks: the bytes of the gguf package, and of examples worked out by hand.
#include "trainer/ggml_blocks.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "quant/quantize.hpp"
#include "quant/quantizers.hpp"
#include "trainer/row_type.hpp"
#include "trainer/safetensors.hpp"

namespace nibble {
namespace {

std::vector<std::byte> encode(const RowType& type, std::span<const float> row) {
  std::vector<std::byte> blocks(type.bytes_of(std::ssize(row)));
  type.encode(row, blocks.data());
  return blocks;
}

const RowType& q8_0() { return row_type("Q8_0"); }
const RowType& q4_0() { return row_type("Q4_0"); }
const RowType& mxfp4() { return row_type("MXFP4"); }

TEST(GgmlBlocks, AreThoseOfTheGgufPackage) {
  const SafetensorsFile file(std::string(NIBBLE_TEST_DATA) + "/trainer/data/packed/ggml_blocks.safetensors");
  const OwnedTensor input(DType::f32, 12, 64), expected(DType::f32, 12, 64);
  file.read("input", input);
  for (const auto& [name, type] : {std::pair("q8_0", q8_0()), {"q4_0", q4_0()}, {"mxfp4", mxfp4()}}) {
    const std::span<const std::byte> blocks = file.bytes(std::string(name) + ".blocks");
    file.read(std::string(name) + ".decoded", expected);
    const size_t row_bytes = blocks.size() / 12;
    for (int64_t i = 0; i < 12; ++i) {
      const std::span<const std::byte> row = blocks.subspan(static_cast<size_t>(i) * row_bytes, row_bytes);
      const std::vector<std::byte> ours = encode(type, {input.view().row<float>(i), 64});
      for (size_t j = 0; j < row_bytes; ++j) ASSERT_EQ(ours[j], row[j]) << name << " row " << i << " byte " << j;
      std::vector<float> decoded(64);
      type.decode(row.data(), decoded);
      for (int64_t j = 0; j < 64; ++j)
        ASSERT_EQ(decoded[static_cast<size_t>(j)], expected.view().row<float>(i)[j]) << name << " " << i << "," << j;
    }
  }
}

// The ramp of the reference on formats, section 6.5.
TEST(GgmlBlocks, HaveTheBytesOfTheWorkedExample) {
  std::vector<float> ramp(32);
  for (size_t j = 0; j < 32; ++j) ramp[j] = (static_cast<float>(j) - 15.5f) / 4;
  const auto expect = [&](const RowType& type, const std::vector<int>& bytes) {
    const std::vector<std::byte> ours = encode(type, ramp);
    for (size_t j = 0; j < bytes.size(); ++j)
      EXPECT_EQ(std::to_integer<int>(ours[j]), bytes[j]) << type.name << " " << j;
  };
  expect(q4_0(),
         {0xc0, 0x37, 0x80, 0x91, 0x91, 0xa2, 0xa2, 0xb3, 0xb3, 0xc4, 0xc4, 0xd5, 0xd5, 0xe6, 0xe6, 0xf7, 0xf7, 0xf8});
  expect(q8_0(), {0xd0, 0x27, 256 - 127, 256 - 119, 256 - 111, 256 - 102});
  expect(mxfp4(),
         {0x7e, 0x0f, 0x1f, 0x2f, 0x3f, 0x4f, 0x5f, 0x5e, 0x6e, 0x6e, 0x6d, 0x7d, 0x7c, 0x7b, 0x7a, 0x79, 0x70});
}

// Whatever rule found their scales: a block whose largest code is small has a scale further down.
TEST(GgmlBlocks, HoldWhatMxTrainingMultiplies) {
  Stream stream(1);
  OwnedTensor w(DType::f32, 4, 96), values(DType::f32, 4, 96);
  for (int64_t i = 0; i < w.view().size(); ++i)
    w.view().as<float>()[i] = static_cast<float>((i * 37 + i * i * 11) % 101 - 50) * 0.013f;
  using quantizers::MxScale, quantizers::QuestScale;
  for (const Quantizer& q : {quantizers::mx(formats::e2m1, MxScale::floor),
                             quantizers::mx(formats::e2m1, MxScale::ceil), quantizers::quartet(QuestScale::nearest)})
    for (const float divisor : {0.25f, 1.0f, 8.0f}) {
      Quantizer coarse = q;
      coarse.divisor *= divisor;
      quantize(stream, {.values = w}, {.quantizer = coarse}, 1, values);
      for (int64_t i = 0; i < 4; ++i) {
        const std::span<const float> row(values.view().row<float>(i), 96);
        std::vector<float> decoded(96);
        decode_mxfp4(encode(mxfp4(), row).data(), decoded);
        for (size_t j = 0; j < 96; ++j) ASSERT_EQ(decoded[j], row[j]) << divisor << ": " << i << "," << j;
      }
    }
}

TEST(GgmlBlocks, HoldTheLargestAndTheSmallest) {
  std::vector<float> row(32, 1.0f), decoded(32);
  for (const auto* type : {&q8_0(), &q4_0()}) {
    row[7] = type->largest;
    type->decode(encode(*type, row).data(), decoded);
    EXPECT_EQ(decoded[7], type->largest) << type->name;
    row[7] = -type->largest;
    type->decode(encode(*type, row).data(), decoded);
    EXPECT_EQ(decoded[7], -type->largest) << type->name;
  }
  row[7] = 1e7f;
  decode_mxfp4(encode(mxfp4(), row).data(), decoded);
  EXPECT_EQ(decoded[7], 8388608.0f) << "4 times 2^21";
  // 1 / d is infinite: nothing that is stored may depend on infinity times zero.
  std::ranges::fill(row, 1e-42f);
  row[3] = 0;
  for (const auto* type : {&q8_0(), &q4_0()}) {
    type->decode(encode(*type, row).data(), decoded);
    EXPECT_EQ(std::ranges::count(decoded, 0.0f), 32) << type->name;
  }
}

}  // namespace
}  // namespace nibble
