// Products in tiles against double, in every orientation and with shapes around a tile's.
#include "optim/tile_products.hpp"

#include <gtest/gtest.h>

#include <array>

#include "tests/optim/double_matrices.hpp"

namespace nibble {
namespace {

using testing::Doubles;
using testing::doubles;

OwnedTensor gaussian(int64_t rows, int64_t cols, uint32_t tensor) {
  return testing::Matrix::gaussian(rows, cols, tensor).tensor();
}

TEST(TileProducts, AsInDouble) {
  constexpr double bound = 2e-6;  // of the largest element, for sums of 300 products
  Stream stream(2);
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{3, 5, 7}, {256, 257, 40}, {600, 20, 300}})
    for (const Transpose left : {Transpose::no, Transpose::yes})
      for (const Transpose right : {Transpose::no, Transpose::yes}) {
        const OwnedTensor a = left == Transpose::yes ? gaussian(k, m, 1) : gaussian(m, k, 1),
                          b = right == Transpose::yes ? gaussian(n, k, 2) : gaussian(k, n, 2), c = gaussian(m, n, 3),
                          square(DType::f32, m, m), product(DType::f32, m, n);
        const Doubles x = left == Transpose::yes ? Doubles(doubles(a).transpose()) : doubles(a),
                      y = right == Transpose::yes ? Doubles(doubles(b).transpose()) : doubles(b),
                      sum = doubles(c) + x * y;
        tiled_product(stream, a, left, b, right, product);
        EXPECT_LT((doubles(product) - x * y).cwiseAbs().maxCoeff(), bound * (x * y).cwiseAbs().maxCoeff());
        tiled_product(stream, a, left, b, right, product, c);
        EXPECT_LT((doubles(product) - sum).cwiseAbs().maxCoeff(), bound * sum.cwiseAbs().maxCoeff());
        tiled_product(stream, a, left, b, right, c, c);
        EXPECT_EQ(doubles(c), doubles(product));
        square_product(stream, a, left, square);
        const Doubles squared = x * x.transpose();
        EXPECT_LT((doubles(square) - squared).cwiseAbs().maxCoeff(), bound * squared.cwiseAbs().maxCoeff());
        EXPECT_EQ(doubles(square), doubles(square).transpose());
      }
}

}  // namespace
}  // namespace nibble
