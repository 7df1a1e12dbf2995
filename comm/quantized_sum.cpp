#include <fmt/format.h>

#include <cassert>

#include "comm/bucket_sums.hpp"
#include "comm/bucket_vector.hpp"
#include "comm/correlated_allreduce.hpp"
#include "comm/cuda/kernels.hpp"
#include "comm/quantized_allreduce.hpp"

namespace nibble {
namespace {

class QuantizedSum final : public BucketSum {
 public:
  QuantizedSum(const BucketPlace& place, const Codec& codec) : place_(place), name_(codec.name) {
    const bool on_device = place.memory == Place::device;
    if (!on_device) place.scratch->reserve(SumScratch::gathered);
    const std::string key =
        fmt::format("{}, {}, {} ranks, {}", codec.name, codec.bucket, place.ranks(), on_device ? "device" : "host");
    if (codec.rounding == Codec::Rounding::correlated) {
      assert(!on_device);
      correlated_ = place.scratch->shared<CorrelatedAllReduce>(
          key, [&] { return CorrelatedAllReduce(codec, place.ranks(), place.isa); });
      return;
    }
    codes_ = place.scratch->shared<QuantizedAllReduce>(key, [&] {
      return QuantizedAllReduce(on_device ? make_segment_codes_on_device(codec) : make_segment_codes(codec, place.isa));
    });
    codes_->reserve(place.part_elements, place.goes);
  }

  std::string description() const override { return std::string(name_); }

  // With values that are not finite both give a NaN, which whoever looks at the sum refuses.
  void sum(Communicator& ranks, const Parts& values, int64_t step, std::span<float> own) override {
    const CodeSource source = place_.codes(step);
    if (correlated_) {
      assert(own.empty());
      (void)correlated_->all_reduce(ranks, values, source, place_.goes);
      return;
    }
    (void)codes_->all_reduce(ranks, values, source, place_.goes, own);
  }

 private:
  BucketPlace place_;
  std::string_view name_;
  std::shared_ptr<QuantizedAllReduce> codes_;
  std::shared_ptr<CorrelatedAllReduce> correlated_;
};

}  // namespace

bool codes_on_device(const Codec& codec) {
  const bool rotates = codec.rotation != Codec::Rotation::none;
  if (codec.grid == Codec::Grid::normal) return rotates && codec.bucket <= cuda::largest_rotated;
  return !rotates && (codec.range == Codec::Range::largest || codec.range == Codec::Range::extremes);
}

BucketSumPointer make_quantized_sum(const BucketPlace& place, const Codec& codec) {
  return std::make_unique<QuantizedSum>(place, codec);
}

}  // namespace nibble
