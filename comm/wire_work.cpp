#include "comm/wire_work.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cassert>

#include "comm/cuda/kernels.hpp"
#include "comm/device_row.hpp"
#include "tensor/convert.hpp"
#include "tensor/error.hpp"
#include "tensor/fill.hpp"
#include "tensor/simd.hpp"
#include "tensor/stream.hpp"

namespace nibble {
namespace {

/// Both ways are the same: load_n widens, store_n rounds.
template <class From, class To>
void convert_all(const From* from, int64_t count, To* to) {
  simd::for_each_group(count, [&](int64_t i, int64_t n) { simd::store_n(to + i, simd::load_n(from + i, n), n); });
}

}  // namespace

void WireWork::pack(const Pieces& pieces, size_t first, std::span<std::byte> packed) const {
  if (!on_device()) return nibble::pack(pieces, first, packed);
  for_each_run(pieces, first, packed.size(), [&](std::span<std::byte> run) {
    stream_->queue().copy(packed.data(), run.data(), run.size());
    packed = packed.subspan(run.size());
  });
}

void WireWork::unpack(std::span<const std::byte> packed, const Pieces& pieces, size_t first) const {
  if (!on_device()) return nibble::unpack(packed, pieces, first);
  for_each_run(pieces, first, packed.size(), [&](std::span<std::byte> run) {
    stream_->queue().copy(run.data(), packed.data(), run.size());
    packed = packed.subspan(run.size());
  });
}

void WireWork::to_bf16(const float* from, int64_t count, bf16* to) const {
  if (on_device()) return convert(*stream_, device_row(DType::f32, from, count), device_row(DType::bf16, to, count));
  convert_all(from, count, to);
}

void WireWork::to_f32(const bf16* from, int64_t count, float* to) const {
  if (on_device()) return convert(*stream_, device_row(DType::bf16, from, count), device_row(DType::f32, to, count));
  convert_all(from, count, to);
}

void WireWork::copy(const float* from, int64_t count, float* to) const {
  if (on_device()) return stream_->queue().copy(to, from, static_cast<size_t>(count) * sizeof(float));
  std::copy_n(from, count, to);
}

void WireWork::add(const float* from, int64_t count, float* into) const {
  if (on_device())
    return nibble::add(*stream_, device_row(DType::f32, from, count), device_row(DType::f32, into, count));
  for (int64_t i = 0; i < count; ++i) into[i] += from[i];
}

void WireWork::copy(std::span<const float> from, std::span<float> to) const {
  assert(from.size() == to.size());
  copy(from.data(), std::ssize(from), to.data());
}

void WireWork::plus(std::span<const float> a, std::span<const float> b, std::span<float> to) const {
  assert(a.size() == to.size() && b.size() == to.size());
  if (on_device()) return cuda::plus(*stream_, a, b, to);
  for (size_t i = 0; i < to.size(); ++i) to[i] = a[i] + b[i];
}

void WireWork::minus(std::span<const float> a, std::span<const float> b, std::span<float> to) const {
  assert(a.size() == to.size() && b.size() == to.size());
  if (on_device()) return cuda::minus(*stream_, a, b, to);
  for (size_t i = 0; i < to.size(); ++i) to[i] = a[i] - b[i];
}

void WireWork::fill(std::span<float> to, float value) const {
  if (on_device()) return nibble::fill(*stream_, device_row(to), value);
  std::ranges::fill(to, value);
}

void WireWork::block_squares(const SquaredVectors& of, double* sums) const {
  if (on_device()) return cuda::block_squares(*stream_, of, sums);
  nibble::block_squares(of, sums);
}

void WireWork::sum(const std::vector<MicroBatchSum>& plan, std::span<const float* const> contributions, int64_t first,
                   int64_t count, float* sum) const {
  if (on_device()) {
    if (contributions.size() > size_t{cuda::most_summed})
      throw Error({.kind = ErrorKind::configuration,
                   .what = "more ranks than a device sums",
                   .seen = fmt::format("{}", contributions.size()),
                   .allowed = fmt::format("at most {}", cuda::most_summed),
                   .next = "set gradients.hierarchical=true"});
    return cuda::sum_over_ranks(*stream_, plan, contributions, first, count, sum);
  }
  std::array<simd::f32x, 32> slots;
  simd::for_each_group(count, [&](int64_t i, int64_t n) {
    for (const MicroBatchSum& entry : plan) {
      const simd::f32x value = simd::load_n(contributions[static_cast<size_t>(entry.micro_batch)] + first + i, n);
      simd::f32x& slot = slots[static_cast<size_t>(entry.slot)];
      slot = entry.accumulate ? slot + value : value;
      for (const MicroBatchSum::Join& join : entry.joins)
        slots[static_cast<size_t>(join.into)] += slots[static_cast<size_t>(join.from)];
    }
    simd::store_n(sum + i, slots[0], n);
  });
}

}  // namespace nibble
