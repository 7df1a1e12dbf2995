#include "optim/two_sided.hpp"

#include <algorithm>
#include <cmath>

#include "optim/decompositions.hpp"
#include "optim/kernels.hpp"
#include "tensor/convert.hpp"

namespace nibble {

void add_packed(StateList& list, const std::string& prefix, const ParameterInfo& matrix, const Tensor& value) {
  list.add_run(prefix + "/" + matrix.name, value.packed_as(1, value.size()), matrix.rows, matrix.cols, 0);
}

TwoSides take_sides(Arena& arena, const ParameterInfo& matrix, int64_t longest) {
  TwoSides sides;
  if (matrix.rows <= longest) sides.left = arena.take_packed(DType::f32, matrix.rows, matrix.rows);
  if (matrix.cols <= longest) sides.right = arena.take_packed(DType::f32, matrix.cols, matrix.cols);
  return sides;
}

void add_sides(StateList& list, const std::string& kind, const ParameterInfo& matrix, const TwoSides& sides,
               int64_t longest) {
  const auto add = [&](const char* where, const Tensor& side, int64_t n) {
    if (n <= longest)
      list.add_run("optimizer/" + std::string(where) + kind + "/" + matrix.name, side.packed_as(1, side.size()), n, n,
                   0);
  };
  add("left_", sides.left, matrix.rows);
  add("right_", sides.right, matrix.cols);
}

TwoSidedScratch::TwoSidedScratch(std::span<const ParameterInfo* const> matrices, int64_t longest, Place place) {
  int64_t elements = 0, side = 0;
  for (const ParameterInfo* matrix : matrices) {
    elements = std::max(elements, matrix->size());
    for (const int64_t n : {matrix->rows, matrix->cols})
      if (n <= longest) side = std::max(side, n);
  }
  memory_ = Arena(
      "matrix updates",
      [&](Arena& arena) {
        for (Tensor& matrix : matrices_) matrix = arena.take(DType::f32, 1, elements);
        square_ = arena.take(DType::f32, 1, side * side);
      },
      place);
}

Tensor TwoSidedScratch::like(const Tensor& matrix, int which) const {
  return matrices_[which].packed_as(matrix.rows, matrix.cols);
}

Tensor TwoSidedScratch::square(int64_t side) const { return square_.packed_as(side, side); }

std::vector<TwoSidedScratch> two_sided_scratch(std::span<const OptimizedParameter> matrices, const WholeMatrices& whole,
                                               int64_t longest, const ParameterShares& shares) {
  std::vector<const ParameterInfo*> own, beside_others;
  for (size_t i = 0; i < matrices.size(); ++i) {
    if (!whole.owns(i)) continue;
    own.push_back(matrices[i].info);
    if (whole.changes_beside_others(i)) beside_others.push_back(own.back());
  }
  const Place place = masters_place(matrices);
  std::vector<TwoSidedScratch> scratch;
  for (int thread = 0; thread < (place == Place::host ? shares.threads : 1); ++thread)
    scratch.emplace_back(thread == 0 ? own : beside_others, longest, place);
  return scratch;
}

void update_factors(Stream& stream, const Tensor& gradient, const TwoSides& factors, double beta,
                    const TwoSidedScratch& scratch) {
  const MomentumFactors mean{.gradient_scale = static_cast<float>(1 - beta),
                             .momentum = static_cast<float>(beta),
                             .nesterov = false,
                             .step = 0};
  const auto update = [&](const Tensor& factor, Transpose transpose) {
    if (!factor) return;
    const Tensor square = scratch.square(factor.rows);
    square_product(stream, gradient, transpose, square);
    momentum_update(stream, square, moment_over(factor), square, mean);
  };
  update(factors.left, Transpose::no);
  update(factors.right, Transpose::yes);
}

void multiply_sides(Stream& stream, const TwoSides& sides, Transpose left, const Tensor& x, Transpose right,
                    const TwoSidedScratch& scratch) {
  if (!sides.left && !sides.right) return;
  const Tensor other = scratch.like(x, 1);
  if (sides.left) tiled_product(stream, sides.left, left, x, Transpose::no, other);
  else tiled_product(stream, x, Transpose::no, sides.right, right, other);
  if (sides.left && sides.right) tiled_product(stream, other, Transpose::no, sides.right, right, x);
  else copy(stream, other, x);
}

OwnedTensor brought_to_host(Stream& stream, const Tensor& matrix) {
  OwnedTensor here(matrix.dtype, matrix.rows, matrix.cols, "matrix updates");
  copy(stream, matrix, here);
  stream.wait();
  return here;
}

std::vector<double> eigenvectors(Stream& stream, const Tensor& factor, const Tensor& vectors, const std::string& what) {
  if (!stream.on_device()) return eigen_decomposition(factor, vectors, what);
  const OwnedTensor here = brought_to_host(stream, factor);
  std::vector<double> values = eigen_decomposition(here, here, what);
  copy(stream, here, vectors);
  stream.wait();
  return values;
}

void rehearse_sides(Stream& stream, const ParameterInfo& matrix, int64_t longest,
                    const std::function<void(const Tensor& gradient, const TwoSides& sides,
                                             const TwoSidedScratch& scratch)>& products) {
  const ParameterInfo* const one = &matrix;
  const TwoSidedScratch scratch({&one, 1}, longest, stream.place());
  Tensor gradient;
  TwoSides sides;
  const Arena zeros(
      "matrix updates",
      [&](Arena& arena) {
        gradient = arena.take_packed(DType::f32, matrix.rows, matrix.cols);
        sides = take_sides(arena, matrix, longest);
      },
      stream.place());
  products(gradient, sides, scratch);
  stream.wait();
}

double side_products(const ParameterInfo& matrix, int64_t longest, double products) {
  double operations = 0;
  for (const int64_t n : {matrix.rows, matrix.cols})
    if (n <= longest) operations += 2 * products * static_cast<double>(n * matrix.size());
  return operations;
}

double side_cubes(const ParameterInfo& matrix, int64_t longest, double cubes) {
  double operations = 0;
  for (const int64_t n : {matrix.rows, matrix.cols})
    if (n <= longest) operations += cubes * std::pow(static_cast<double>(n), 3);
  return operations;
}

size_t two_sided_scratch_bytes(const Stream& stream, std::span<const ParameterInfo> matrices) {
  int64_t side = 0;
  for (const ParameterInfo& matrix : matrices) side = std::max({side, matrix.rows, matrix.cols});
  return tile_product_scratch_bytes(stream, DType::f32, side);
}

size_t two_sided_decomposition_bytes(const Stream& stream, std::span<const ParameterInfo> matrices, int64_t longest) {
  int64_t side = 0;
  for (const ParameterInfo& matrix : matrices)
    for (const int64_t n : {matrix.rows, matrix.cols})
      if (n <= longest) side = std::max(side, n);
  const size_t of_one = decomposition_scratch_bytes(side);
  if (stream.on_device()) return of_one + 2 * bytes_of(DType::f32, side, side);
  return static_cast<size_t>(stream.threads()) * of_one;
}

}  // namespace nibble
