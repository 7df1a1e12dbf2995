#include <algorithm>
#include <cassert>
#include <memory>

#include "comm/bucket_sums.hpp"
#include "comm/bucket_vector.hpp"
#include "comm/correlated_codec.hpp"
#include "comm/cuda/correlated.hpp"
#include "comm/cuda/kernels.hpp"
#include "comm/device_communicator.hpp"
#include "comm/reserved_memory.hpp"
#include "comm/wire_work.hpp"

namespace nibble {
namespace {

/// Of a device, for the sums of one thread in turns.
struct CountMemory {
  Buffer values, ranges, counts, infinite;
};

class CountSum final : public BucketSum {
 public:
  CountSum(const BucketPlace& place, const Codec& codec, BucketSumPointer on_host)
      : place_(place),
        codec_(codec),
        on_host_(std::move(on_host)),
        memory_(place.scratch->shared<CountMemory>("counts", [] { return CountMemory(); })) {
    int64_t begin = 0;
    for (const int64_t values : place.part_elements) {
      begins_.push_back(begin);
      for (int64_t first = 0; first < values; first += codec.bucket) {
        const int64_t here = std::min(codec.bucket, values - first);
        buckets_.push_back({begin + first, static_cast<int32_t>(codec.codes_of(here)), static_cast<int32_t>(here)});
      }
      begin += codec.padded(values);
    }
    const auto codes = static_cast<size_t>(begin);
    table_ = Buffer(std::span(buckets_).size_bytes(), "communication", Place::device);
    reserve(memory_->values, codes * sizeof(float));
    reserve(memory_->ranges, buckets_.size() * sizeof(float));
    reserve(memory_->counts, codes * (wide() ? sizeof(int32_t) : sizeof(uint8_t)));
    reserve(memory_->infinite, sizeof(uint32_t));
  }

  std::string description() const override { return on_host_->description(); }

  void sum(Communicator& ranks, const Parts& values, int64_t step, std::span<float> own) override {
    auto* const links = dynamic_cast<DeviceCommunicator*>(&ranks);  // a group of its ranks is none
    if (!links || !links->reduces() || place_.ranks() == 1) return on_host_->sum(ranks, values, step, own);
    assert(own.empty());
    const WireWork work(ranks);
    Stream& stream = *ranks.stream();
    if (!table_is_there_) stream.queue().copy(table_.data(), buckets_.data(), std::span(buckets_).size_bytes());
    table_is_there_ = true;
    for (size_t part = 0; part < values.size(); ++part) work.pack(values[part], 0, part_of_codes(part));
    const cuda::CountTask task = task_of(step);
    cuda::prepare_counts(stream, task);
    links->all_reduce(DeviceCommunicator::Reduction::largest_float,
                      {static_cast<std::byte*>(memory_->ranges.data()), buckets_.size() * sizeof(float)});
    cuda::encode_counts(stream, task);
    const auto codes = static_cast<size_t>(buckets_.empty() ? 0 : buckets_.back().begin + buckets_.back().codes);
    links->all_reduce(
        wide() ? DeviceCommunicator::Reduction::sum_of_ints : DeviceCommunicator::Reduction::sum_of_bytes,
        {static_cast<std::byte*>(memory_->counts.data()), codes * (wide() ? sizeof(int32_t) : sizeof(uint8_t))});
    cuda::decode_counts(stream, task);
    for (size_t part = 0; part < values.size(); ++part)
      if (place_.goes == SumGoes::to_all || part == static_cast<size_t>(place_.rank))
        work.unpack(part_of_codes(part), values[part], 0);
  }

 private:
  /// Whether a sum of all ranks' codes needs more than a byte.
  bool wide() const { return place_.ranks() * ((1 << codec_.bits) - 1) > 255; }

  /// The values of a part, in front of the padding of its last bucket.
  std::span<std::byte> part_of_codes(size_t part) const {
    return {static_cast<std::byte*>(memory_->values.data()) + static_cast<size_t>(begins_[part]) * sizeof(float),
            static_cast<size_t>(place_.part_elements[part]) * sizeof(float)};
  }

  cuda::CountTask task_of(int64_t step) const {
    const CodeSource source = place_.codes(step);
    const auto of_rank =
        static_cast<uint32_t>(order_of_ranks(source, place_.ranks())[static_cast<size_t>(place_.rank)]);
    return {.buckets = static_cast<const cuda::CodedBucket*>(table_.data()),
            .count = std::ssize(buckets_),
            .largest_bucket = static_cast<int>(codec_.bucket),
            .bits = codec_.bits,
            .rotates = codec_.rotation != Codec::Rotation::none,
            .stratum = {static_cast<uint32_t>(place_.ranks()), of_rank, source.correlated_thresholds()},
            .random = source.stream(0),
            .signs = source.shared_signs(),
            .offsets = CodeSource::correlated_offsets,
            .first_levels = CodeSource::first_levels,
            .values = static_cast<float*>(memory_->values.data()),
            .ranges = static_cast<float*>(memory_->ranges.data()),
            .infinite = static_cast<uint32_t*>(memory_->infinite.data()),
            .counts = memory_->counts.data(),
            .wide = wide()};
  }

  BucketPlace place_;
  Codec codec_;
  BucketSumPointer on_host_;
  std::shared_ptr<CountMemory> memory_;
  std::vector<int64_t> begins_;             ///< by part: of its codes
  std::vector<cuda::CodedBucket> buckets_;  ///< of all parts
  Buffer table_;                            ///< the same in the device's memory
  bool table_is_there_ = false;
};

}  // namespace

bool counts_on_device(const Codec& codec) {
  return codec.rounding == Codec::Rounding::correlated &&
         (codec.rotation == Codec::Rotation::none || codec.bucket <= cuda::largest_rotated);
}

BucketSumPointer make_count_sum(const BucketPlace& place, const Codec& codec, BucketSumPointer on_host) {
  return std::make_unique<CountSum>(place, codec, std::move(on_host));
}

}  // namespace nibble
