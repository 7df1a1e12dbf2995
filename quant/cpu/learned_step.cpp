#include "quant/learned_step.hpp"

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "quant/arithmetic.hpp"
#include "quant/cuda/kernels.hpp"
#include "tensor/profile.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

using simd::f32x, simd::lanes;

/// The sum over all elements of what terms(row, first column, how many, into) writes; zeros behind the last element.
template <class Terms>
double sum_over(Stream& stream, const Tensor& shape, Terms&& terms) {
  std::vector<double> of_rows(static_cast<size_t>(shape.rows));
  parallel_for(stream, shape.rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double lane_sums[lanes] = {};
      simd::for_each_group(shape.cols, [&](int64_t j, int64_t count) {
        float group[lanes];
        terms(i, j, count, group);
        for (int lane = 0; lane < lanes; ++lane) lane_sums[lane] += group[lane];
      });
      of_rows[static_cast<size_t>(i)] = std::accumulate(lane_sums, lane_sums + lanes, 0.0);
    }
  });
  return std::accumulate(of_rows.begin(), of_rows.end(), 0.0);
}

[[gnu::always_inline]] inline f32x load(const Tensor& x, int64_t row, int64_t col, int64_t count) {
  return x.dtype == DType::f32 ? simd::load_n(x.row<float>(row) + col, count)
                               : simd::load_n(x.row<bf16>(row) + col, count);
}

}  // namespace

Scalar initial_log_step(Stream& stream, const Quantizer& quantizer, const Tensor& x) {
  const KernelTimer timer(stream, "initial_log_step", {x});
  if (stream.on_device()) return cuda::initial_log_step(stream, quantizer, x);
  const double sum = sum_over(stream, x, [&](int64_t i, int64_t j, int64_t count, float* into) {
    simd::store(into, magnitude(load(x, i, j, count)));
  });
  const double step = 2 * sum / static_cast<double>(x.size()) / std::sqrt(double{quantizer.element->max});
  return static_cast<float>(std::log(std::max(step, double{std::numeric_limits<float>::min()})));
}

Scalar step_of(Stream& stream, const Scalar& log_step) {
  if (stream.on_device()) return cuda::step_of(stream, log_step);
  return static_cast<float>(std::exp(double{float{log_step}}));
}

Scalar log_step_gradient(Stream& stream, const Quantizer& quantizer, const Scalar& log_step, const Tensor& x,
                         const Tensor& gradient) {
  const KernelTimer timer(stream, "log_step_gradient", {x, gradient});
  if (stream.on_device()) return cuda::log_step_gradient(stream, quantizer, log_step, x, gradient);
  const ElementFormat& format = *quantizer.element;
  const bool lsq = quantizer.learned == LearnedStep::lsq;
  const float step = step_of(stream, log_step), inverse = 1 / step;
  const double sum = sum_over(stream, x, [&](int64_t i, int64_t j, int64_t count, float* into) {
    const f32x y = load(x, i, j, count) * inverse, q = round_nearest(y, format);
    const f32x within = lsq ? q - y : f32x{};
    simd::store(into, (magnitude(y) < format.max ? within : q) * simd::load_n(gradient.row<float>(i) + j, count));
  });
  const double share = lsq ? 1 / std::sqrt(static_cast<double>(x.size()) * format.max) : 1;
  return static_cast<float>(step * share * sum);
}

}  // namespace nibble
