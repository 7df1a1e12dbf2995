#include "comm/square_sum.hpp"

#include <algorithm>
#include <cassert>
#include <numeric>

#include "comm/wire_work.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

/// The squares of the terms, by block.
template <class Term>
void sum_blocks(int64_t elements, double* sums, Term&& term) {
  for (int64_t first = 0; first < elements; first += square_block) {
    const int64_t end = std::min(first + square_block, elements);
    double lanes[simd::lanes] = {};  // not a vector of the compiler's, which it keeps in memory without AVX-512
    const auto add = [&](int64_t i, int64_t lane) {
      const double value = term(i + lane);
      lanes[lane] += value * value;
    };
    int64_t i = first;
    for (; i + simd::lanes <= end; i += simd::lanes)
      for (int64_t lane = 0; lane < simd::lanes; ++lane) add(i, lane);
    for (int64_t lane = 0; i + lane < end; ++lane) add(i, lane);
    for (int64_t width = simd::lanes / 2; width > 0; width /= 2)
      for (int64_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
    *sums++ = lanes[0];
  }
}

}  // namespace

void block_squares(const SquaredVectors& of, double* sums) {
  const auto [x, y, z, elements] = of;
  if (!y) return sum_blocks(elements, sums, [x = x](int64_t i) { return double(x[i]); });
  if (!z) return sum_blocks(elements, sums, [x = x, y = y](int64_t i) { return double(x[i]) - double(y[i]); });
  sum_blocks(elements, sums,
             [x = x, y = y, z = z](int64_t i) { return double(x[i]) - 2 * double(y[i]) + double(z[i]); });
}

double square_sum(std::span<const float> values) {
  double total = 0;
  for (size_t first = 0; first < values.size(); first += square_block) {
    double sum = 0;
    const auto elements = static_cast<int64_t>(std::min<size_t>(square_block, values.size() - first));
    block_squares({.x = values.data() + first, .elements = elements}, &sum);
    total += sum;
  }
  return total;
}

SquareSum::SquareSum(int64_t most_elements, Place place) {
  const auto bytes = static_cast<size_t>(std::max<int64_t>(1, square_blocks(most_elements))) * sizeof(double);
  sums_ = Buffer(bytes, "communication", place);
  if (place == Place::device) fetched_ = PinnedMemory(bytes);
}

void SquareSum::take(const WireWork& work, std::span<const float> x, std::span<const float> y,
                     std::span<const float> z) {
  assert((y.empty() || y.size() == x.size()) && (z.empty() || z.size() == x.size()));
  blocks_ = square_blocks(std::ssize(x));
  const size_t bytes = static_cast<size_t>(blocks_) * sizeof(double);
  assert(bytes <= sums_.bytes());
  work.block_squares({.x = x.data(), .y = y.data(), .z = z.data(), .elements = std::ssize(x)},
                     static_cast<double*>(sums_.data()));
  if (fetched_.bytes() > 0) work.pack({{static_cast<std::byte*>(sums_.data()), bytes}}, 0, fetched_.first(bytes));
}

double SquareSum::total() const {
  const void* const sums = fetched_.bytes() > 0 ? fetched_.first(0).data() : sums_.data();
  const auto* const blocks = static_cast<const double*>(sums);
  return std::accumulate(blocks, blocks + blocks_, 0.0);
}

}  // namespace nibble
