// Codes and block scales as products take them, held to their definitions byte by byte.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "tensor/coded_gemm.hpp"
#include "tests/cuda/on_device.hpp"

namespace nibble {
namespace {

OwnedTensor random_bytes(int64_t rows, int64_t cols, unsigned seed, int64_t stride = 0) {
  OwnedTensor drawn(DType::u8, rows, std::max(cols, stride), "test");
  std::mt19937 generator(seed);
  for (int64_t i = 0; i < drawn.view().size(); ++i) drawn.view().as<uint8_t>()[i] = static_cast<uint8_t>(generator());
  return drawn;
}

/// Number `index` of a row of bit fields, bit by bit.
int field(const uint8_t* row, int64_t index, int bits) {
  int value = 0;
  for (int bit = 0; bit < bits; ++bit) {
    const int64_t at = index * bits + bit;
    value |= (row[at / 8] >> (at % 8) & 1) << bit;
  }
  return value;
}

struct Layout {
  int from_bits, to_bits;
  bool transposed;
  int64_t rows, depth;  ///< of the result
  int64_t padding;      ///< bytes behind each row of `from`
};

TEST(CodeLayout, MovesEveryCodeToItsPlace) {
  Stream device(1, Place::device);
  for (const Layout& how :
       {Layout{8, 8, false, 37, 48, 0}, Layout{8, 8, true, 40, 144, 0}, Layout{8, 8, true, 72, 64, 5},
        Layout{4, 8, false, 65, 80, 0}, Layout{4, 8, true, 136, 96, 3}, Layout{4, 4, true, 72, 160, 0},
        Layout{4, 4, true, 16, 32, 1}, Layout{6, 8, true, 200, 48, 0}, Layout{6, 8, false, 3, 208, 2},
        Layout{3, 8, true, 24, 32, 0}, Layout{5, 8, false, 1, 16, 0}})
    for (const bool translates : {false, true}) {
      const int64_t from_rows = how.transposed ? how.depth : how.rows,
                    from_bytes = (how.transposed ? how.rows : how.depth) * how.from_bits / 8,
                    to_bytes = how.depth * how.to_bits / 8;
      std::vector<uint8_t> meanings;
      for (int code = 0; translates && code < 1 << how.from_bits; ++code)
        meanings.push_back(static_cast<uint8_t>((code * 7 + 3) % (1 << how.to_bits)));
      const OwnedTensor from = random_bytes(from_rows, from_bytes, 1, from_bytes + how.padding),
                        there = testing::on_device(device, from),
                        to_there = testing::on_device(device, random_bytes(how.rows, to_bytes + 16, 2));
      lay_out_codes(device, {.from = there.view().slice_cols(0, from_bytes),
                             .from_bits = how.from_bits,
                             .to = to_there.view().slice_cols(0, to_bytes),
                             .to_bits = how.to_bits,
                             .transposed = how.transposed,
                             .meanings = meanings});
      const OwnedTensor seen = testing::on_host(device, to_there), before = random_bytes(how.rows, to_bytes + 16, 2);
      for (int64_t i = 0; i < how.rows; ++i) {
        for (int64_t l = 0; l < how.depth; ++l) {
          const int code = how.transposed ? field(from.view().row<uint8_t>(l), i, how.from_bits)
                                          : field(from.view().row<uint8_t>(i), l, how.from_bits);
          ASSERT_EQ(field(seen.view().row<uint8_t>(i), l, how.to_bits), translates ? meanings[code] : code)
              << how.from_bits << " to " << how.to_bits << (how.transposed ? ", transposed" : "") << " [" << i << ", "
              << l << "]";
        }
        for (int64_t j = to_bytes; j < to_bytes + 16; ++j)
          ASSERT_EQ(seen.view().row<uint8_t>(i)[j], before.view().row<uint8_t>(i)[j]) << "behind row " << i;
      }
    }
}

/// The tiles as they are described: 128 rows and 4 blocks are 512 bytes, and in them rows 0, 32, 64 and 96 come first
/// with four blocks each, then rows 1, 33, ...
std::vector<int> tiles_of(const std::vector<std::vector<int>>& scales, int64_t blocks) {
  std::vector<int> bytes;
  const auto rows = static_cast<int64_t>(scales.size());
  for (int64_t first_row = 0; first_row < rows; first_row += 128)
    for (int64_t first_block = 0; first_block < blocks; first_block += 4)
      for (int64_t lane = 0; lane < 32; ++lane)
        for (int64_t quarter = 0; quarter < 128; quarter += 32)
          for (int64_t block = first_block; block < first_block + 4; ++block) {
            const int64_t row = first_row + quarter + lane;
            const bool there = row < rows && block < blocks;
            bytes.push_back(there ? scales[static_cast<size_t>(row)][static_cast<size_t>(block)] : 0);
          }
  return bytes;
}

TEST(ScaleTiles, HaveEveryScaleInItsPlaceAndZerosAroundThem) {
  Stream device(1, Place::device);
  struct Shape {
    int64_t rows, blocks, square;
  };
  for (const auto& [rows, blocks, square] :
       {Shape{1, 1, 0}, {128, 4, 0}, {129, 5, 0}, {300, 12, 0}, {37, 7, 0}, {256, 2, 0}, {144, 9, 16}, {32, 3, 16}}) {
    const bool turned = square > 0;
    const OwnedTensor scales = turned ? random_bytes(blocks * square, rows / square, 3) : random_bytes(rows, blocks, 3);
    std::vector<std::vector<int>> expected(static_cast<size_t>(rows));
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t block = 0; block < blocks; ++block)
        expected[static_cast<size_t>(row)].push_back(turned ? scales.view().row<uint8_t>(block * square)[row / square]
                                                            : scales.view().row<uint8_t>(row)[block]);
    const OwnedTensor there = testing::on_device(device, scales),
                      tiles = testing::on_device(device, random_bytes(1, scale_tile_bytes(rows, blocks), 4));
    tile_scales(device, there, rows, blocks, square, tiles);
    const OwnedTensor seen = testing::on_host(device, tiles);
    const std::vector<int> bytes(seen.view().as<uint8_t>(), seen.view().as<uint8_t>() + seen.view().size());
    EXPECT_EQ(bytes, tiles_of(expected, blocks)) << rows << " rows, " << blocks << " blocks, squares " << square;
  }
}

}  // namespace
}  // namespace nibble
