// Correlated codes on a device: codes, their counts and what these stand for have the host's bits.
#include "comm/cuda/correlated.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "comm/bit_packing.hpp"
#include "comm/correlated_codec.hpp"
#include "tests/cuda/on_device.hpp"

namespace nibble {
namespace {

using testing::on_device;
using testing::on_host;

constexpr CodeSource source{.seed = 11, .step = 3, .first_bucket = 70};

/// A vector in buckets, with codes and counts of every rank, as the host has them and as a device does.
class Counted {
 public:
  Counted(const Codec& codec, int ranks, int64_t elements)
      : codec_(codec), ranks_(ranks), elements_(elements), order_(order_of_ranks(source, ranks)) {
    for (int64_t first = 0; first < elements; first += codec.bucket) {
      const int64_t here = std::min(codec.bucket, elements - first);
      buckets_.push_back({first, static_cast<int32_t>(codec.codes_of(here)), static_cast<int32_t>(here)});
    }
  }

  std::vector<float> values_of(int rank) const {
    std::mt19937 random(static_cast<uint32_t>(rank));
    std::normal_distribution<float> normal;
    std::vector<float> values(static_cast<size_t>(elements_));
    for (float& value : values) value = normal(random);
    // A bucket of nothing, and one whose range is its last value.
    if (elements_ >= 2 * codec_.bucket) std::fill_n(values.begin(), codec_.bucket, 0.0f);
    if (rank == 0) values.back() = -50;
    if (rank == poisoned) values.front() = poison;
    return values;
  }

  void check(Stream& stream) {
    CorrelatedCodec on_host_of(codec_, ranks_);
    const auto codes = static_cast<size_t>(codec_.padded(elements_));
    std::vector<std::vector<float>> prepared(static_cast<size_t>(ranks_), std::vector<float>(codes));
    std::vector<float> ranges(buckets_.size()), most(buckets_.size());
    for (int rank = 0; rank < ranks_; ++rank) {
      on_host_of.prepare(values_of(rank), source, prepared[static_cast<size_t>(rank)]);
      on_host_of.ranges(prepared[static_cast<size_t>(rank)], ranges);
      for (size_t i = 0; i < most.size(); ++i) most[i] = std::max(most[i], ranges[i]);
    }
    std::vector<uint16_t> counts(codes);
    std::vector<int32_t> counts_there(codes);
    for (int rank = 0; rank < ranks_; ++rank) {
      const auto r = static_cast<size_t>(rank);
      const Device there(stream, *this, rank);
      cuda::prepare_counts(stream, there.task);
      if (poisoned < 0) {  // NaNs have other bits elsewhere
        EXPECT_EQ(0, std::memcmp(on_host(stream, there.values).view().data, prepared[r].data(), codes * sizeof(float)))
            << "prepared values of rank " << rank;
      }
      copy(stream, Tensor(most.data(), 1, std::ssize(most)), there.ranges);
      cuda::encode_counts(stream, there.task);
      const OwnedTensor seen = on_host(stream, there.counts);
      if (poisoned >= 0) continue;
      std::vector<std::byte> packed(packed_bytes(static_cast<int64_t>(codes), codec_.bits));
      const CodeSource own = source.of_rank(rank);
      on_host_of.encode(prepared[r], most, own, order_[r], packed);
      std::vector<uint16_t> alone(codes);
      on_host_of.count(packed, own, alone);
      on_host_of.count(packed, own, counts);
      for (size_t i = 0; i < codes; ++i) {
        const int code = there.task.wide ? seen.view().as<int32_t>()[i] : seen.view().as<uint8_t>()[i];
        ASSERT_EQ(code, alone[i]) << "value " << i << " of rank " << rank;
        counts_there[i] += code;
      }
    }
    std::vector<float> sum(static_cast<size_t>(elements_), std::numeric_limits<float>::quiet_NaN());
    if (poisoned < 0) on_host_of.decode(counts, most, source, sum);
    const Device there(stream, *this, 0);
    copy(stream, Tensor(most.data(), 1, std::ssize(most)), there.ranges);
    cuda::encode_counts(stream, there.task);  // which looks at the ranges
    there.set_counts(stream, counts_there);
    cuda::decode_counts(stream, there.task);
    EXPECT_EQ(0, std::memcmp(on_host(stream, there.values).view().data, sum.data(), sum.size() * sizeof(float)));
  }

  int poisoned = -1;  ///< rank
  float poison = 0;

 private:
  struct Device {
    Device(Stream& stream, const Counted& of, int rank)
        : table(DType::u8, 1, static_cast<int64_t>(of.buckets_.size() * sizeof(cuda::CodedBucket)), "test",
                Place::device),
          values(DType::f32, 1, of.codec_.padded(of.elements_), "test", Place::device),
          ranges(DType::f32, 1, std::ssize(of.buckets_), "test", Place::device),
          infinite(DType::i32, 1, 1, "test", Place::device),
          counts(of.wide() ? DType::i32 : DType::u8, 1, of.codec_.padded(of.elements_), "test", Place::device),
          task(task_of(of, rank)) {
      const std::vector<float> own = of.values_of(rank);
      stream.queue().copy(table.view().data, of.buckets_.data(), table.view().bytes());
      stream.queue().copy(values.view().data, own.data(), own.size() * sizeof(float));
      stream.wait();
    }
    cuda::CountTask task_of(const Counted& of, int rank) const {
      const CodeSource from = source.of_rank(rank);
      return {.buckets = static_cast<const cuda::CodedBucket*>(table.view().data),
              .count = std::ssize(of.buckets_),
              .largest_bucket = static_cast<int>(of.codec_.bucket),
              .bits = of.codec_.bits,
              .rotates = of.codec_.rotation != Codec::Rotation::none,
              .stratum = {static_cast<uint32_t>(of.ranks_), static_cast<uint32_t>(of.order_[static_cast<size_t>(rank)]),
                          from.correlated_thresholds()},
              .random = from.stream(0),
              .signs = from.shared_signs(),
              .offsets = CodeSource::correlated_offsets,
              .first_levels = CodeSource::first_levels,
              .values = static_cast<float*>(values.view().data),
              .ranges = static_cast<float*>(ranges.view().data),
              .infinite = static_cast<uint32_t*>(infinite.view().data),
              .counts = counts.view().data,
              .wide = of.wide()};
    }
    void set_counts(Stream& stream, const std::vector<int32_t>& of_all) const {
      const std::vector<uint8_t> bytes(of_all.begin(), of_all.end());
      const void* const from = task.wide ? static_cast<const void*>(of_all.data()) : bytes.data();
      stream.queue().copy(counts.view().data, from, counts.view().bytes());
      stream.wait();
    }

    OwnedTensor table, values, ranges, infinite, counts;
    cuda::CountTask task;
  };

  bool wide() const { return ranks_ * ((1 << codec_.bits) - 1) > 255; }

  Codec codec_;
  int ranks_;
  int64_t elements_;
  std::vector<int> order_;
  std::vector<cuda::CodedBucket> buckets_;
};

TEST(CorrelatedCounts, HaveTheHostsBits) {
  Stream device(1, Place::device);
  for (const char* name :
       {"correlated-1", "correlated-2", "correlated-4", "correlated-8", "rotated-correlated-1", "rotated-correlated-4"})
    for (const int ranks : {2, 3, 40})
      for (const int64_t elements : {3, 64, 1024, 2 * 1024 + 100, 2 * 1024 + 5}) {
        SCOPED_TRACE(::testing::Message() << name << ", " << ranks << " ranks, " << elements << " values");
        Counted(codec_named(name, 1024, "test"), ranks, elements).check(device);
      }
  Counted(codec_named("rotated-correlated-2", 8192, "test"), 3, 2 * 8192 + 300).check(device);
}

TEST(CorrelatedCounts, HideNothingThatIsNoNumber) {
  Stream device(1, Place::device);
  for (const char* name : {"correlated-1", "correlated-4", "rotated-correlated-4"})
    for (const float poison :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 3e38f}) {
      Counted poisoned(codec_named(name, 64, "test"), 2, 200);
      poisoned.poisoned = 1;
      poisoned.poison = poison;
      SCOPED_TRACE(::testing::Message() << name << ", " << poison);
      poisoned.check(device);
    }
}

}  // namespace
}  // namespace nibble
