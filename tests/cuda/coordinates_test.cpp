// Messages of coordinates that a device writes and adds, against the sample's own arithmetic, element by element.
// What ranks make of them: tests/comm/nccl/gpu_exchange_test.cpp.
#include "comm/cuda/coordinates.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "comm/wire_work.hpp"
#include "tests/cuda/on_device.hpp"

namespace nibble {
namespace {

using testing::drawn;
using testing::on_device;
using testing::on_host;

std::span<float> span_of(const Tensor& vector) {
  return {static_cast<float*>(vector.data), static_cast<size_t>(vector.size())};
}

TEST(CoordinateMessages, SayTheSamplesValues) {
  Stream device(1, Place::device);
  const WireWork work(&device);
  for (const int64_t elements : {1, 3, 300, 5000}) {
    const OwnedTensor values = drawn(DType::f32, 1, elements + 1, 1), addends = drawn(DType::f32, 1, elements, 2),
                      values_there = on_device(device, values), addends_there = on_device(device, addends);
    const std::span<const float> vector = span_of(values).subspan(1);  // behind where packs begin
    for (const CoordinateSample& sample :
         {CoordinateSample::permutation(elements, 3, {.step = 5, .rank = 1}),
          CoordinateSample::random(elements, std::max<int64_t>(1, elements / 5), {.step = 6, .rank = 2})}) {
      const OwnedTensor message(DType::f32, 1, 1 + sample.size(), "test", Place::device);
      cuda::write_message(device, sample, span_of(values_there).subspan(1), span_of(message));
      const OwnedTensor fetched = on_host(device, message);
      const std::span<const float> sent = span_of(fetched);
      EXPECT_EQ(sent[0], 0);
      std::vector<float> sum(span_of(addends).begin(), span_of(addends).end());
      for (int64_t i = 0; i < sample.size(); ++i) {
        const auto element = static_cast<size_t>(sample.coordinate(i));
        const float value = sample.factor() * vector[element];
        ASSERT_EQ(sent[static_cast<size_t>(1 + i)], value);
        sum[element] += value;
      }
      const OwnedTensor total(DType::f32, 1, elements, "test", Place::device);
      work.copy(span_of(addends_there), span_of(total));
      cuda::add_message(device, sample, span_of(message), span_of(total));
      const OwnedTensor here = on_host(device, total);
      EXPECT_TRUE(std::ranges::equal(span_of(here), sum));
    }
  }
}

TEST(CoordinateMessages, AreMarkedWhereOneElementIsNotFinite) {
  Stream device(1, Place::device);
  constexpr int64_t elements = 5000;
  const CoordinateSample sample = CoordinateSample::permutation(elements, 3, {.step = 5, .rank = 1});
  for (const float poison : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                             -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::max() / 4})
    for (const int64_t at : {0, 2500, 4999}) {
      const OwnedTensor values = drawn(DType::f32, 1, elements, 1);
      span_of(values)[static_cast<size_t>(at)] = poison;
      const OwnedTensor there = on_device(device, values),
                        message(DType::f32, 1, 1 + sample.size(), "test", Place::device),
                        total(DType::f32, 1, elements, "test", Place::device);
      cuda::write_message(device, sample, span_of(there), span_of(message));
      cuda::add_message(device, sample, span_of(message), span_of(total));
      const OwnedTensor sum = on_host(device, total);
      for (const float value : span_of(sum)) ASSERT_EQ(std::isfinite(value), std::isfinite(poison)) << at;
    }
}

}  // namespace
}  // namespace nibble
