// This folder's kernels on devices.
#pragma once

#include <cstdint>
#include <span>

#include "comm/wire_work.hpp"
#include "tensor/stream.hpp"

namespace nibble::cuda {

/// How many contributions one sum may have.
inline constexpr int most_summed = 256;

/// Values of a rotated bucket, and a code for each, that a block's memory holds on any GPU without being asked for
/// more.
inline constexpr int64_t largest_rotated = 8192;

/// As WireWork::sum, for at most most_summed ranks.
[[gnu::weak]] void sum_over_ranks(Stream& stream, const std::vector<MicroBatchSum>& plan,
                                  std::span<const float* const> contributions, int64_t first, int64_t count,
                                  float* sum);

/// As WireWork::plus, minus and block_squares.
[[gnu::weak]] void plus(Stream& stream, std::span<const float> a, std::span<const float> b, std::span<float> to);
[[gnu::weak]] void minus(Stream& stream, std::span<const float> a, std::span<const float> b, std::span<float> to);
[[gnu::weak]] void block_squares(Stream& stream, const SquaredVectors& of, double* sums);

/// values[i] = *addresses[i]; all of it in the device's memory.
[[gnu::weak]] void gather(Stream& stream, const float* const* addresses, int64_t count, float* values);

}  // namespace nibble::cuda
