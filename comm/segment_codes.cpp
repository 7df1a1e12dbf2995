#include "comm/segment_codes.hpp"

#include <algorithm>

#include "comm/bucket_codec.hpp"
#include "comm/packed_parts.hpp"

namespace nibble {
namespace {

class HostSegmentCodes final : public SegmentCodes {
 public:
  HostSegmentCodes(const Codec& codec, Isa isa) : codec_(codec, isa) {}

  const Codec& codec() const override { return codec_.codec(); }

  std::span<float> gathered(const Pieces& part, size_t number) override {
    copies_.resize(std::max(copies_.size(), number + 1));
    return nibble::gathered(part, growing(copies_[number]));
  }
  void scattered(std::span<const float> values, const Pieces& part) override { nibble::scattered(values, part); }
  void fill_with_nan(const Pieces& part) override { nibble::fill_with_nan(part); }

  bool prepare(const std::vector<CodedPart>& parts) override {
    return std::ranges::all_of(parts, [&](const CodedPart& part) { return codec_.can_encode(part.whole.values); });
  }

  void contribution(const std::vector<CodedPart>& parts, std::span<float> own) override {
    std::vector<std::byte> codes;
    for (const CodedPart& part : parts)
      for (const CodedSegment& segment : part.segments) {
        codes.resize(codec().bytes_of(std::ssize(segment.values)));
        encode(segment, codes);
        codec_.decode(codes, segment.source, own.first(segment.values.size()));
        own = own.subspan(segment.values.size());
      }
  }

  void encode(const CodedSegment& segment, std::span<std::byte> codes) override {
    codec_.encode(segment.values, segment.source, codes);
  }

  void add(const CodedSegment& segment, std::span<const std::span<const std::byte>> codes) override {
    for (size_t from = 0; from < codes.size(); ++from) {
      const CodeSource source = segment.source.of_rank(static_cast<int>(from));
      if (from == 0) codec_.decode(codes[from], source, segment.values);
      else codec_.decode_and_add(codes[from], source, segment.values);
    }
  }

  bool encode_sum(const CodedSegment& segment, const CodeSource& source, std::span<std::byte> codes) override {
    return codec_.try_encode(segment.values, source, codes);
  }
  void decode_sum(const CodedSegment& segment, const CodeSource& source, std::span<const std::byte> codes) override {
    codec_.decode(codes, source, segment.values);
  }

 private:
  BucketCodec codec_;
  std::vector<std::vector<float>> copies_;  ///< by part: of its values where they lie in pieces
};

}  // namespace

std::unique_ptr<SegmentCodes> make_segment_codes(const Codec& codec, Isa isa) {
  return std::make_unique<HostSegmentCodes>(codec, isa);
}

}  // namespace nibble
