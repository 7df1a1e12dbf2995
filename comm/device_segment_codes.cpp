#include <algorithm>
#include <cassert>
#include <limits>
#include <map>

#include "comm/bucket_codec.hpp"
#include "comm/bucket_sums.hpp"
#include "comm/cuda/codes.hpp"
#include "comm/device_row.hpp"
#include "comm/packed_parts.hpp"
#include "comm/reserved_memory.hpp"
#include "comm/segment_codes.hpp"
#include "comm/segment_pipeline.hpp"
#include "comm/wire_work.hpp"
#include "tensor/error.hpp"
#include "tensor/fill.hpp"

namespace nibble {
namespace {

/// For containers that queues of a device copy from and to.
class PinnedResource final : public std::pmr::memory_resource {
 private:
  void* do_allocate(size_t bytes, size_t) override {
    PinnedMemory memory(bytes);
    void* const first = memory.first(bytes).data();
    held_.emplace(first, std::move(memory));
    return first;
  }
  void do_deallocate(void* memory, size_t, size_t) override { held_.erase(memory); }
  bool do_is_equal(const memory_resource& other) const noexcept override { return this == &other; }

  std::map<void*, PinnedMemory> held_;
};

class DeviceSegmentCodes final : public SegmentCodes {
 public:
  explicit DeviceSegmentCodes(const Codec& codec)
      : codec_(codec),
        counts_(sizeof(Counts), "communication", Place::device),
        counted_(sizeof(Counts)),
        messages_(std::make_shared<PinnedResource>()) {
    assert(codes_on_device(codec));
  }

  const Codec& codec() const override { return codec_; }

  void reserve(const std::vector<int64_t>& part_elements) override {
    int64_t elements = 0, longest = 0;
    size_t codes = 0;
    for (const int64_t values : part_elements) {
      elements += values;
      longest = std::max(longest, values);
      codes += padded_codes(codec_, values);
    }
    slot_ = std::max(slot_, padded_codes(codec_, std::min(longest, values_of_segment(codec_))));
    nibble::reserve(values_, static_cast<size_t>(elements) * sizeof(float));
    nibble::reserve(codes_, codes);
    nibble::reserve(slots_, part_elements.size() * slot_);
    nibble::reserve(sum_codes_, slot_);
    nibble::reserve(own_, codes);
  }
  std::shared_ptr<std::pmr::memory_resource> memory_of_messages() override { return messages_; }

  void begin(Communicator& ranks) override {
    ranks_ = &ranks;
    values_used_ = 0;
    read_.clear();
  }
  void finish() override { wait(); }

  std::span<float> gathered(const Pieces& part, size_t) override {
    return nibble::gathered(WireWork(stream()), part, [&](size_t elements) {
      const std::span<float> values(static_cast<float*>(values_.data()) + values_used_, elements);
      values_used_ += elements;
      return values;
    });
  }
  void scattered(std::span<const float> values, const Pieces& part) override {
    nibble::scattered(WireWork(stream()), values, part);
  }
  void fill_with_nan(const Pieces& part) override {
    for_each_run(part, 0, bytes_of(part), [&](std::span<std::byte> run) {
      fill(*stream(), device_row(DType::f32, run.data(), static_cast<int64_t>(run.size() / sizeof(float))),
           std::numeric_limits<float>::quiet_NaN());
    });
  }

  bool prepare(const std::vector<CodedPart>& parts) override {
    size_t end = 0;
    for (const CodedPart& part : parts) {
      encode(part.whole, part.whole.source, own_codes(part.whole));
      end = part.whole.codes_begin + codec_.bytes_of(std::ssize(part.whole.values));
    }
    if (ranks_->size() > 1) queue().copy(own_.first(end).data(), codes_.data(), end);
    return all_encoded();
  }

  void contribution(const std::vector<CodedPart>& parts, std::span<float> own) override {
    for (const CodedPart& part : parts) {
      const size_t elements = part.whole.values.size();
      decode({.first = own_codes(part.whole)}, part.whole.source, own.first(elements));
      own = own.subspan(elements);
    }
  }

  void encode(const CodedSegment& segment, std::span<std::byte> codes) override {
    const std::span<const std::byte> all = own_.first(own_.bytes());
    std::ranges::copy(all.subspan(segment.codes_begin, codes.size()), codes.begin());
  }

  void add(const CodedSegment& segment, std::span<const std::span<const std::byte>> codes) override {
    for (size_t from = 0; from < codes.size(); ++from) {
      const CodeSource source = segment.source.of_rank(static_cast<int>(from));
      if (source.rank == segment.source.rank) queue().copy(slot(from), own_codes(segment), codes[from].size());
      else fetch(codes[from], source, segment.values.size(), slot(from));
    }
    decode({.first = slot(0),
            .stride = static_cast<int64_t>(slot_),
            .count = static_cast<int>(codes.size()),
            .signs_apart = codec_.rotation == Codec::Rotation::of_rank ? 1u : 0u},
           segment.source.of_rank(0), segment.values);
  }

  bool encode_sum(const CodedSegment& segment, const CodeSource& source, std::span<std::byte> codes) override {
    encode(segment, source, static_cast<uint8_t*>(sum_codes_.data()));
    queue().copy(codes.data(), sum_codes_.data(), codes.size());
    return all_encoded();
  }

  void decode_sum(const CodedSegment& segment, const CodeSource& source, std::span<const std::byte> codes) override {
    const bool own = source.rank == segment.source.rank;
    if (!own) fetch(codes, source, segment.values.size(), slot(0));
    decode({.first = own ? static_cast<const uint8_t*>(sum_codes_.data()) : slot(0)}, source, segment.values);
  }

  void release(std::span<const std::byte> message) override {
    const auto within = [&](const Read& read) {
      return read.codes.data() >= message.data() && read.codes.data() < message.data() + message.size();
    };
    if (std::ranges::any_of(read_, within)) wait();
  }

 private:
  struct Counts {
    unsigned long long refused, damaged;
  };
  /// Codes that were fetched since the last wait.
  struct Read {
    std::span<const std::byte> codes;
    CodeSource source;
    size_t values;
  };

  Stream* stream() const { return ranks_->stream(); }
  cuda::Queue& queue() const { return stream()->queue(); }
  Counts* counts() const { return static_cast<Counts*>(counts_.data()); }
  uint8_t* own_codes(const CodedSegment& segment) const {
    return static_cast<uint8_t*>(codes_.data()) + segment.codes_begin;
  }
  uint8_t* slot(size_t from) const { return static_cast<uint8_t*>(slots_.data()) + from * slot_; }

  void fetch(std::span<const std::byte> codes, const CodeSource& source, size_t values, uint8_t* to) {
    queue().copy(to, codes.data(), codes.size());
    read_.push_back({codes, source, values});
  }
  void encode(const CodedSegment& segment, const CodeSource& source, uint8_t* codes) {
    if (segment.values.empty()) return;
    encode_codes(*stream(), cuda::CodedRun::of(codec_, source, std::ssize(segment.values)), segment.values.data(),
                 codes, &counts()->refused);
  }
  void decode(const cuda::CodeMessages& messages, const CodeSource& source, std::span<float> values) {
    if (values.empty()) return;
    decode_codes(*stream(), cuda::CodedRun::of(codec_, source, std::ssize(values)), messages, values.data(),
                 &counts()->damaged);
  }

  /// All work is done. Throws what the host says of a damaged message among those that were fetched.
  Counts wait() {
    auto* const here = reinterpret_cast<Counts*>(counted_.first(sizeof(Counts)).data());
    queue().copy(here, counts_.data(), sizeof(Counts));
    ranks_->wait();
    const Counts counted = *here;
    if (counted.damaged != seen_.damaged) {
      seen_ = counted;
      refuse();
    }
    read_.clear();
    return counted;
  }
  [[noreturn]] void refuse() {
    BucketCodec on_host(codec_);
    std::vector<float> values;
    for (const Read& read : read_) {
      values.resize(read.values);
      on_host.decode(read.codes, read.source, values);
    }
    throw Error({.what = "a device refuses codes that the host takes", .seen = std::string(codec_.name)});
  }
  /// Of what was queued since the last wait.
  bool all_encoded() {
    const Counts counted = wait();
    const bool all = counted.refused == seen_.refused;
    seen_ = counted;
    return all;
  }

  Codec codec_;
  Buffer values_;     ///< of parts that lie in pieces
  Buffer codes_;      ///< this rank's, of the whole vector
  Buffer slots_;      ///< by rank: of the segment that is added
  Buffer sum_codes_;  ///< of the segment whose sum was encoded last
  Buffer counts_;
  size_t slot_ = 0;         ///< bytes
  size_t values_used_ = 0;  ///< elements
  PinnedMemory own_, counted_;
  std::shared_ptr<PinnedResource> messages_;
  Communicator* ranks_ = nullptr;
  Counts seen_{};
  std::vector<Read> read_;
};

}  // namespace

std::unique_ptr<SegmentCodes> make_segment_codes_on_device(const Codec& codec) {
  return std::make_unique<DeviceSegmentCodes>(codec);
}

}  // namespace nibble
