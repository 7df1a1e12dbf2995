// What exchanges compute on vectors has the host's bits, wherever vectors begin and end.
#include <gtest/gtest.h>

#include <vector>

#include "comm/wire_work.hpp"
#include "tests/cuda/on_device.hpp"

namespace nibble {
namespace {

using testing::drawn;
using testing::on_device;
using testing::on_host;
using testing::same_bits;

std::span<float> span_of(const Tensor& vector) {
  return {static_cast<float*>(vector.data), static_cast<size_t>(vector.size())};
}

/// Vectors of one length on both sides, `shift` elements behind where packs begin.
class Vectors {
 public:
  Vectors(Stream& device, int64_t elements, int64_t shift)
      : device_(device), elements_(static_cast<size_t>(elements)), shift_(static_cast<size_t>(shift)) {
    for (unsigned seed = 0; seed < 4; ++seed) {
      here_.push_back(drawn(DType::f32, 1, elements + shift, seed));
      const std::span<float> values = span_of(here_.back());
      for (size_t i = seed; i < values.size(); i += 97) values[i] = i % 2 == 0 ? 3e38f : 1e-44f;
      there_.push_back(on_device(device, here_.back()));
    }
  }
  std::span<float> here(size_t i) const { return span_of(here_[i]).subspan(shift_, elements_); }
  std::span<float> there(size_t i) const { return span_of(there_[i]).subspan(shift_, elements_); }

  /// Does the same to both sides, and compares all of their memory.
  template <class Act>
  void act(const char* what, Act&& act) const {
    act(WireWork(nullptr), [this](size_t i) { return here(i); });
    act(WireWork(&device_), [this](size_t i) { return there(i); });
    for (size_t i = 0; i < here_.size(); ++i)
      EXPECT_TRUE(same_bits(on_host(device_, there_[i]), here_[i])) << what << ", " << elements_ << " from " << shift_;
  }

 private:
  Stream& device_;
  size_t elements_, shift_;
  std::vector<OwnedTensor> here_, there_;
};

TEST(ExchangeVectors, AreAddedSubtractedCopiedAndFilled) {
  Stream device(1, Place::device);
  for (const int64_t elements : {0, 1, 7, 8, 9, 2047, 2048, 2049, 10000})
    for (const int64_t shift : {0, 1, 4}) {
      const Vectors vectors(device, elements, shift);
      vectors.act("plus", [](const WireWork& work, auto&& of) { work.plus(of(0), of(1), of(2)); });
      vectors.act("minus", [](const WireWork& work, auto&& of) { work.minus(of(0), of(1), of(3)); });
      vectors.act("minus in place", [](const WireWork& work, auto&& of) { work.minus(of(2), of(3), of(2)); });
      vectors.act("copy", [](const WireWork& work, auto&& of) { work.copy(of(2), of(0)); });
      vectors.act("fill", [](const WireWork& work, auto&& of) { work.fill(of(1), -0.5f); });
    }
}

/// In the order that the header names, element by element.
double slow_sum(const std::vector<double>& terms) {
  double total = 0;
  for (size_t first = 0; first < terms.size(); first += 4096) {
    double lanes[16] = {};
    for (size_t i = first; i < std::min<size_t>(first + 4096, terms.size()); ++i) lanes[i % 16] += terms[i] * terms[i];
    for (size_t width = 8; width > 0; width /= 2)
      for (size_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
    total += lanes[0];
  }
  return total;
}

TEST(ExchangeVectors, HaveSquaresInOneOrder) {
  Stream device(1, Place::device);
  for (const int64_t elements : {0, 1, 15, 16, 17, 127, 128, 129, 4095, 4096, 4097, 16 * 4096 + 700, 40 * 4096})
    for (const int64_t shift : {0, 3}) {
      const Vectors vectors(device, elements, shift);
      const std::span<const float> x = vectors.here(0), y = vectors.here(1), z = vectors.here(2);
      for (const int count : {1, 2, 3}) {
        std::vector<double> terms;
        for (size_t i = 0; i < x.size(); ++i)
          terms.push_back(count == 1   ? x[i]
                          : count == 2 ? double(x[i]) - y[i]
                                       : double(x[i]) - 2 * double(y[i]) + z[i]);
        const double expected = slow_sum(terms);
        const auto take = [&](SquareSum& sum, Stream* stream, auto&& of) {
          if (count == 1) sum.take(WireWork(stream), of(0));
          else if (count == 2) sum.take(WireWork(stream), of(0), of(1));
          else sum.take(WireWork(stream), of(0), of(1), of(2));
        };
        SquareSum here(elements, Place::host), there(elements, Place::device);
        take(here, nullptr, [&](size_t i) { return vectors.here(i); });
        take(there, &device, [&](size_t i) { return vectors.there(i); });
        device.wait();
        EXPECT_EQ(here.total(), expected) << elements << ", " << count;
        EXPECT_EQ(there.total(), expected) << elements << ", " << count;
        if (count == 1) {
          EXPECT_EQ(square_sum(x), expected);
        }
        there.clear();
        EXPECT_EQ(there.total(), 0);
      }
    }
}

}  // namespace
}  // namespace nibble
