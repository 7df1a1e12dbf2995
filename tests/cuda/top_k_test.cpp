// Top-k with error feedback on a device: the host's entries and residuals, to the bit.
#include "comm/cuda/top_k.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <optional>

#include "comm/error_feedback.hpp"
#include "comm/stream_exchange.hpp"
#include "tests/comm/top_k_inputs.hpp"
#include "tests/trainer/expect_error.hpp"

namespace nibble {
namespace {

using test::Input;
using test::inputs;

/// NaNs have other bits elsewhere.
uint32_t bits_of(float value) { return std::isnan(value) ? 0x7fc00000u : std::bit_cast<uint32_t>(value); }

int64_t differences(std::span<const float> a, std::span<const float> b) {
  int64_t differ = std::abs(std::ssize(a) - std::ssize(b));
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) differ += bits_of(a[i]) != bits_of(b[i]);
  return differ;
}

int64_t differences(std::span<const SparseEntry> a, std::span<const SparseEntry> b) {
  int64_t differ = std::abs(std::ssize(a) - std::ssize(b));
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    differ += a[i].index != b[i].index || bits_of(a[i].value) != bits_of(b[i].value);
  return differ;
}

constexpr size_t behind = 7;  ///< elements of a vector that are not to be touched
constexpr float untouched = -123;

/// Elements in a device's memory, `offset` elements behind an aligned place, and some behind them.
template <class T>
class There {
 public:
  There(Stream& stream, std::span<const T> values, size_t offset = 0)
      : stream_(stream),
        count_(values.size()),
        memory_((offset + count_ + behind) * sizeof(T), "test", Place::device),
        data_(static_cast<T*>(memory_.data()) + offset) {
    std::vector<T> all(values.begin(), values.end());
    T mark{};
    if constexpr (std::is_same_v<T, float>) mark = untouched;
    else mark = {77, untouched};
    all.insert(all.end(), behind, mark);
    stream.queue().copy(data_, all.data(), all.size() * sizeof(T));
    stream.wait();
  }

  T* data() const { return data_; }
  std::vector<T> fetch() const {
    std::vector<T> all(count_ + behind);
    stream_.queue().copy(all.data(), data_, all.size() * sizeof(T));
    stream_.wait();
    for (size_t i = count_; i < all.size(); ++i) {
      if constexpr (std::is_same_v<T, float>) EXPECT_EQ(all[i], untouched);
      else EXPECT_EQ(all[i], (SparseEntry{77, untouched}));
    }
    all.resize(count_);
    return all;
  }

 private:
  Stream& stream_;
  size_t count_;
  Buffer memory_;
  T* data_;
};

/// Of a selection, which finds there what was left by others.
class Working {
 public:
  Working(Stream& stream, const Selection& selection, int64_t length)
      : bytes_(stream, std::vector<float>(cuda::top_k_working_bytes(selection, length) / sizeof(float), 7.0f)) {}
  void* data() const { return bytes_.data(); }
  void check() const { bytes_.fetch(); }

 private:
  There<float> bytes_;
};

std::vector<float> fetch(Stream& stream, std::span<const float> there) {
  std::vector<float> here(there.size());
  stream.queue().copy(here.data(), there.data(), there.size_bytes());
  stream.wait();
  return here;
}

SparseStream on_host(std::span<const float> values, const Selection& selection) {
  Stream stream(1);
  return selection.of == Selection::Of::all ? top_k(stream, values, selection.k)
                                            : top_k_of_buckets(stream, values, static_cast<int>(selection.k));
}

void expect_the_hosts_entries(Stream& device, const Input& input, const Selection& selection, size_t offset = 0) {
  SCOPED_TRACE(testing::Message() << input.name << ", " << input.values.size() << " elements, k " << selection.k
                                  << ", offset " << offset);
  const auto length = static_cast<int64_t>(input.values.size());
  const There<float> gradient(device, std::span(input.values), offset);
  const SparseStream expected = on_host(input.values, selection);
  ASSERT_EQ(selection.entries(length), expected.count());
  const There<SparseEntry> entries(device, std::vector<SparseEntry>(expected.entries().size()));
  const Working working(device, selection, length);
  cuda::top_k(device, {.gradient = gradient.data(),
                       .length = length,
                       .selection = selection,
                       .entries = entries.data(),
                       .working = working.data()});
  working.check();
  EXPECT_EQ(differences(entries.fetch(), expected.entries()), 0);
  EXPECT_EQ(differences(gradient.fetch(), input.values), 0);
}

TEST(TopKOnDevice, KeepsOfBucketsWhatTheHostKeeps) {
  Stream device(1, Place::device);
  for (const size_t count : {0u, 1u, 15u, 511u, 512u, 513u, 9 * 512u + 37u})
    for (const Input& input : inputs(count))
      for (const int k : {1, 2, 4, 5, 16, 31, 32, 33, 128, 300, 511, 512}) {
        expect_the_hosts_entries(device, input, {.k = k});
        if (k == 4) expect_the_hosts_entries(device, input, {.k = k}, 1);
      }
}

TEST(TopKOnDevice, KeepsAnyNumberOfABucket) {
  Stream device(1, Place::device);
  for (const Input& input : inputs(512 + 300))
    if (input.name == "normal" || input.name == "three values")
      for (int k = 1; k <= 512; ++k) expect_the_hosts_entries(device, input, {.k = k});
}

TEST(TopKOnDevice, KeepsOfAllWhatTheHostKeeps) {
  Stream device(1, Place::device);
  // A chunk has 16384 elements.
  for (const size_t count : {0u, 1u, 1000u, 16384u, 3 * 16384u + 1025u})
    for (const Input& input : inputs(count))
      for (const size_t k : {size_t{1}, size_t{7}, size_t{500}, size_t{15'000}, std::max<size_t>(count, 1)}) {
        expect_the_hosts_entries(device, input, {Selection::Of::all, static_cast<int64_t>(k)});
        if (k == 7) expect_the_hosts_entries(device, input, {Selection::Of::all, 7}, 3);
      }
}

TEST(TopKOnDevice, KeepsTheFirstOfEqualOnesOverManyChunks) {
  Stream device(1, Place::device);
  Input input{"two values", std::vector<float>(300 * 16384 + 5, 1.0f)};  // chunks are added up by the 256
  for (size_t i = 0; i < input.values.size(); i += 1000) input.values[i] = -2;
  expect_the_hosts_entries(device, input, {Selection::Of::all, std::ssize(input.values) - 9});
}

TEST(TopKOnDevice, RoundsValuesAsTheyTravel) {
  Stream device(1, Place::device);
  for (const Input& input : inputs(2 * 512 + 9))
    for (const Selection& selection : {Selection{.k = 9}, Selection{Selection::Of::all, 40}}) {
      const There<float> gradient(device, std::span(input.values));
      const SparseStream expected = as_received(on_host(input.values, selection), Wire::bf16);
      ASSERT_FALSE(expected.dense());
      const There<SparseEntry> entries(device, std::vector<SparseEntry>(expected.entries().size()));
      const Working working(device, selection, std::ssize(input.values));
      cuda::top_k(device, {.gradient = gradient.data(),
                           .length = std::ssize(input.values),
                           .selection = selection,
                           .wire = Wire::bf16,
                           .entries = entries.data(),
                           .working = working.data()});
      EXPECT_EQ(differences(entries.fetch(), expected.entries()), 0) << input.name;
    }
}

TEST(TopKOnDevice, FeedsBackWhatTheHostFeedsBack) {
  Stream host(1), device(1, Place::device);
  constexpr int64_t count = 17'000;  // a chunk and a part of another
  for (const Selection& selection : {Selection{.k = 4}, Selection{.k = 40}, Selection{.k = 512},
                                     Selection{Selection::Of::all, 3}, Selection{Selection::Of::all, 2000}})
    for (const Wire wire : {Wire::f32, Wire::bf16})
      for (const size_t offset : {0u, 2u}) {
        ErrorFeedback here(count), there(count, Place::device);
        std::mt19937 random(3);
        std::normal_distribution<float> normal;
        for (int step = 0; step < 4; ++step) {
          SCOPED_TRACE(testing::Message() << "k " << selection.k << ", step " << step << ", offset " << offset);
          std::vector<float> values(count);
          for (float& value : values) value = std::pow(normal(random), 3.0f);
          values[700] = 0, values[701] = -values[702];
          const There<float> gradient(device, std::span<const float>(values), offset);
          const Working working(device, selection, count);
          const SparseStream expected = here.select(host, values, selection, wire);
          const There<SparseEntry> entries(device, std::vector<SparseEntry>(expected.entries().size()));
          there.select(device, gradient.data(), selection, wire, entries.data(), working.data());
          EXPECT_EQ(differences(entries.fetch(), expected.entries()), 0);
          EXPECT_EQ(differences(fetch(device, there.rest()), here.rest()), 0);
          EXPECT_EQ(differences(fetch(device, there.residual()), here.residual()), 0);
          if (step == 1) here.discard(), there.discard();
          else here.commit(), there.commit();
          EXPECT_EQ(differences(fetch(device, there.residual()), here.residual()), 0);
        }
      }
}

TEST(TopKOnDevice, FeedsBackWhatIsHardToTell) {
  Stream host(1), device(1, Place::device);
  for (const size_t count : {0u, 3u, 512u, 3 * 512u + 37u})
    for (const Input& input : inputs(count))
      for (const Selection& selection : {Selection{.k = 5}, Selection{.k = 100}, Selection{Selection::Of::all, 30}}) {
        SCOPED_TRACE(testing::Message() << input.name << ", " << count << " elements, k " << selection.k);
        const auto length = static_cast<int64_t>(count);
        ErrorFeedback here(length), there(length, Place::device);
        for (const Wire wire : {Wire::f32, Wire::bf16}) {
          const There<float> gradient(device, std::span(input.values));
          const Working working(device, selection, length);
          const SparseStream expected = here.select(host, input.values, selection, wire);
          const There<SparseEntry> entries(device, std::vector<SparseEntry>(expected.entries().size()));
          there.select(device, gradient.data(), selection, wire, entries.data(), working.data());
          EXPECT_EQ(differences(entries.fetch(), expected.entries()), 0);
          here.commit(), there.commit();
          EXPECT_EQ(differences(fetch(device, there.residual()), here.residual()), 0);
        }
      }
}

TEST(TopKOnDevice, TouchesNothingBehindWhatStays) {
  Stream device(1, Place::device);
  for (const size_t count : {3u, 512u, 513u, 2 * 512u + 255u})
    for (const Selection& selection : {Selection{.k = 2}, Selection{Selection::Of::all, 2}}) {
      std::vector<float> values(count, 1.0f);
      const There<float> gradient(device, std::span<const float>(values)),
          residual(device, std::span<const float>(values)), rest(device, std::span<const float>(values));
      const There<SparseEntry> entries(
          device, std::vector<SparseEntry>(static_cast<size_t>(selection.entries(static_cast<int64_t>(count)))));
      const Working working(device, selection, static_cast<int64_t>(count));
      cuda::top_k(device, {.gradient = gradient.data(),
                           .length = static_cast<int64_t>(count),
                           .selection = selection,
                           .entries = entries.data(),
                           .working = working.data(),
                           .residual = residual.data(),
                           .rest = rest.data()});
      for (const SparseEntry& entry : entries.fetch()) {
        EXPECT_EQ(entry.value, 2);
        values[entry.index] = -1;
      }
      for (float& value : values) ++value;
      EXPECT_EQ(differences(rest.fetch(), values), 0);
    }
}

TEST(TopKOnDevice, PutsEntriesWhereTheyBelong) {
  Stream device(1, Place::device);
  const std::vector<SparseEntry> entries{{0, 1.5f}, {3, -0.0f}, {999, 7}};
  std::vector<float> expected(1000, 2);
  const There<float> to(device, std::span<const float>(expected));
  const There<SparseEntry> from(device, std::span(entries));
  cuda::put_entries(device, from.data(), std::ssize(entries), to.data());
  cuda::put_entries(device, from.data(), 0, to.data());
  for (const SparseEntry& entry : entries) expected[entry.index] = entry.value;
  EXPECT_EQ(differences(to.fetch(), expected), 0);
}

TEST(TopKOnDevice, RefusesASelectionOfNothing) {
  Stream device(1, Place::device);
  ErrorFeedback feedback(700, Place::device);
  for (const Selection& selection : {Selection{.k = 0}, Selection{.k = 513}, Selection{Selection::Of::all, 0}})
    expect_error(ErrorKind::configuration, {"Top-k"},
                 [&] { feedback.select(device, nullptr, selection, Wire::f32, nullptr, nullptr); });
}

}  // namespace
}  // namespace nibble
