// Messages of chosen coordinates of a device's values, written and added there.
//
// Not for: which coordinates (coordinate_sample.hpp), what a message begins with on the host (coordinate_sum.cpp).
#pragma once

#include <span>

#include "comm/coordinate_sample.hpp"
#include "tensor/stream.hpp"

namespace nibble::cuda {

/// message = a mark, then the sample's values times its factor. The mark is infinity if any of all values is not
/// finite, else zero.
[[gnu::weak]] void write_message(Stream& stream, const CoordinateSample& sample, std::span<const float> values,
                                 std::span<float> message);

/// sum += the vector that the message stands for; behind a mark that is not zero, it begins with that everywhere.
[[gnu::weak]] void add_message(Stream& stream, const CoordinateSample& sample, std::span<const float> message,
                               std::span<float> sum);

}  // namespace nibble::cuda
