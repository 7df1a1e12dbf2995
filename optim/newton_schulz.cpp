#include "optim/newton_schulz.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>

#include "optim/gradient_norm.hpp"
#include "optim/kernels.hpp"
#include "optim/tile_products.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

constexpr Quintic classic[] = {{3.4445, -4.7750, 2.0315}};
constexpr Quintic tuned[] = {{4.0848, -6.8946, 2.9270},
                             {3.9505, -6.3029, 2.6377},
                             {3.7418, -5.5913, 2.3037},
                             {2.8769, -3.1427, 1.2046},
                             {2.8366, -3.0525, 1.2012}};
/// For singular values from 1e-3 on, with a safety of 2 % (so the norm is divided by 1.02) and a cushion of 2.
constexpr Quintic polar_express[] = {{8.156554524902461, -22.48329292557795, 15.878769915207462},
                                     {4.042929935166739, -2.808917465908714, 0.5000178451051316},
                                     {3.8916678022926607, -2.772484153217685, 0.5060648178503393},
                                     {3.285753657755655, -2.3681294933425376, 0.46449024233003106},
                                     {2.3465413258596377, -1.7097828382687081, 0.42323551169305323}};

std::span<const Quintic> table_of(NewtonSchulzTable table) {
  switch (table) {
    case NewtonSchulzTable::classic:
      return classic;
    case NewtonSchulzTable::tuned:
      return tuned;
    case NewtonSchulzTable::polar_express:
      return polar_express;
  }
  return {};
}

Tensor shaped(const Tensor& memory, int64_t rows, int64_t cols) {
  return {memory.dtype, memory.data, rows, cols, padded_stride(memory.dtype, cols), memory.place};
}

}  // namespace

std::vector<Quintic> newton_schulz_polynomials(NewtonSchulzTable table, int64_t steps) {
  const std::span<const Quintic> known = table_of(table);
  std::vector<Quintic> polynomials;
  for (int64_t step = 0; step < steps; ++step)
    polynomials.push_back(known[static_cast<size_t>(std::min(step, std::ssize(known) - 1))]);
  return polynomials;
}

NormDivisor newton_schulz_divisor(NewtonSchulzTable table) {
  return table == NewtonSchulzTable::polar_express ? NormDivisor{1.02, 1e-6} : NormDivisor{1, 1e-7};
}

double newton_schulz_operations(int64_t rows, int64_t cols, int64_t steps) {
  const auto m = static_cast<double>(std::min(rows, cols)), n = static_cast<double>(std::max(rows, cols));
  return static_cast<double>(steps) * (m * m * n + m * m * m + 2 * m * m * n);  // of A and A² one half
}

NewtonSchulz::NewtonSchulz(const NewtonSchulzSettings& settings, std::span<const Shape> shapes,
                           std::span<const Shape> beside_others, int threads, Place place)
    : settings_(settings), polynomials_(newton_schulz_polynomials(settings.table, settings.steps)) {
  if (settings.steps < 1)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "Newton-Schulz without steps orthogonalises nothing",
                 .where = "optimizer.muon.steps",
                 .seen = fmt::format("{}", settings.steps),
                 .allowed = "at least 1"});
  arena_ = Arena(
      "matrix updates",
      [&](Arena& arena) {
        memories_.clear();
        for (int thread = 0; thread < threads; ++thread)
          memories_.push_back(take(arena, settings.operands, thread == 0 ? shapes : beside_others));
      },
      place);
}

NewtonSchulz::Memory NewtonSchulz::take(Arena& arena, DType operands, std::span<const Shape> shapes) {
  const auto largest = [&](DType type, auto&& cols_of) {
    int64_t elements = 0;
    for (const auto& [rows, cols] : shapes)
      elements = std::max(elements, std::min(rows, cols) * padded_stride(type, cols_of(rows, cols)));
    return elements;
  };
  constexpr auto wide = [](int64_t rows, int64_t cols) { return std::max(rows, cols); };
  constexpr auto narrow = [](int64_t rows, int64_t cols) { return std::min(rows, cols); };
  return {.x = arena.take(DType::f32, 1, largest(DType::f32, wide)),
          .operand = arena.take(operands, 1, largest(operands, wide)),
          .square = arena.take(DType::f32, 1, largest(DType::f32, narrow)),
          .fourth = arena.take(DType::f32, 1, largest(DType::f32, narrow)),
          .factor = arena.take(operands, 1, largest(operands, narrow))};
}

size_t NewtonSchulz::gemm_scratch_bytes(const Stream& stream, const NewtonSchulzSettings& settings,
                                        std::span<const Shape> shapes) {
  int64_t longest = 0;
  for (const auto& [rows, cols] : shapes) longest = std::max({longest, rows, cols});
  return tile_product_scratch_bytes(stream, settings.operands, longest);
}

void NewtonSchulz::operator()(Stream& stream, const Tensor& matrix, int64_t thread) {
  assert(matrix.contiguous());
  const Memory& memory = memories_[static_cast<size_t>(thread)];
  const bool tall = matrix.rows > matrix.cols;
  const int64_t m = std::min(matrix.rows, matrix.cols), n = std::max(matrix.rows, matrix.cols);
  const Tensor x = shaped(memory.x, m, n), operand = shaped(memory.operand, m, n), square = shaped(memory.square, m, m),
               fourth = shaped(memory.fourth, m, m), factor = shaped(memory.factor, m, m);
  normalize_into(stream, matrix, newton_schulz_divisor(settings_.table), tall, x);
  for (const auto& [a, b, c] : polynomials_) {
    convert_and_scale(stream, x, operand, static_cast<float>(a));
    square_product(stream, operand, Transpose::no, square);
    convert_and_scale(stream, square, factor, static_cast<float>(b));
    square_product(stream, factor, Transpose::no, fourth);
    add_scaled(stream, square, fourth, static_cast<float>(c), factor);
    tiled_product(stream, factor, Transpose::no, operand, Transpose::no, x, x);
  }
  scale_into(stream, x, 1.0f, tall, matrix);
}

double NewtonSchulz::orthogonality_error(Stream& stream, const Tensor& matrix, int64_t thread) {
  const Memory& memory = memories_[static_cast<size_t>(thread)];
  const int64_t m = std::min(matrix.rows, matrix.cols), n = std::max(matrix.rows, matrix.cols);
  const auto short_side = static_cast<double>(m);
  const Tensor x = shaped(memory.x, m, n), operand = shaped(memory.operand, m, n),
               square = memory.square.packed_as(m, m);
  scale_into(stream, matrix, 1.0f, matrix.rows > matrix.cols, x);
  convert_and_scale(stream, x, operand, 1.0f);
  square_product(stream, operand, Transpose::no, square);
  add_to_diagonal(stream, square, -1);
  return gradient_norm(gradient_square_sums(stream, {&square, 1})) / std::sqrt(short_side);
}

}  // namespace nibble
