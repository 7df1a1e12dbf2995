// What sums of codes do with values, in the memory where these lie: codes of segments, and sums of what the ranks'
// codes stand for.
//
// Not for: when messages travel and what they say of themselves (quantized_allreduce.hpp), codecs whose ranks know
// something of each other.
#pragma once

#include <cstddef>
#include <memory>
#include <memory_resource>
#include <span>
#include <vector>

#include "comm/code_source.hpp"
#include "comm/codec.hpp"
#include "comm/communicator.hpp"
#include "comm/pieces.hpp"
#include "tensor/stream.hpp"

namespace nibble {

/// From where the codes of a part of so many values begin to where those of the next one do, bytes.
inline size_t padded_codes(const Codec& codec, int64_t values) {
  return (codec.bytes_of(values) + alignment - 1) / alignment * alignment;
}

/// Whole buckets of a part, which travel together.
struct CodedSegment {
  std::span<float> values;
  CodeSource source;       ///< of the first bucket; its rank is this one
  size_t codes_begin = 0;  ///< where this rank's codes would lie among those of the whole vector, bytes
};
struct CodedPart {
  CodedSegment whole;
  std::vector<CodedSegment> segments;
};

class SegmentCodes {
 public:
  virtual ~SegmentCodes() = default;
  virtual const Codec& codec() const = 0;

  /// So that memory is there before the first sum of such parts.
  virtual void reserve(const std::vector<int64_t>& /*part_elements*/) {}
  /// What messages lie in; null: any memory.
  virtual std::shared_ptr<std::pmr::memory_resource> memory_of_messages() { return nullptr; }

  /// A sum begins, and its end: only then, where work is queued, is all of it done. Throws as decode_sum.
  virtual void begin(Communicator& /*ranks*/) {}
  virtual void finish() {}

  /// The values of a part, the `number`th, in one run: where they lie if they lie so.
  virtual std::span<float> gathered(const Pieces& part, size_t number) = 0;
  /// The reverse; they may lie there already.
  virtual void scattered(std::span<const float> values, const Pieces& part) = 0;
  virtual void fill_with_nan(const Pieces& part) = 0;

  /// Takes the values of all parts. False: some are not encodable(); then those below that ask for own codes are not
  /// called.
  virtual bool prepare(const std::vector<CodedPart>& parts) = 0;
  /// own = what this rank's codes stand for, of all parts one behind the other.
  virtual void contribution(const std::vector<CodedPart>& parts, std::span<float> own) = 0;
  /// This rank's codes.
  virtual void encode(const CodedSegment& segment, std::span<std::byte> codes) = 0;

  /// The segment's values become the sum of what the ranks' codes, by rank, stand for; this rank's own are those of
  /// `encode`. Throws, now or until finish() returns, Error{communication} as BucketCodec::decode.
  virtual void add(const CodedSegment& segment, std::span<const std::span<const std::byte>> codes) = 0;
  /// Codes of such a sum, whose random numbers are those of `source`. False: it is not encodable().
  virtual bool encode_sum(const CodedSegment& segment, const CodeSource& source, std::span<std::byte> codes) = 0;
  /// The segment's values become what the codes of its owner, whose source that is, stand for. Where this is the owner,
  /// they are those of the last encode_sum.
  virtual void decode_sum(const CodedSegment& segment, const CodeSource& source, std::span<const std::byte> codes) = 0;
  /// Returns when nobody reads these codes any more: their memory is written or given back next.
  virtual void release(std::span<const std::byte> /*message*/) {}
};

/// Of the host's memory. Throws as BucketCodec.
std::unique_ptr<SegmentCodes> make_segment_codes(const Codec& codec, Isa isa);

/// Of a device's memory, and of a codec that codes_on_device. Only codes leave it: a rank's own with one copy of them
/// all, those of sums with one for each segment.
std::unique_ptr<SegmentCodes> make_segment_codes_on_device(const Codec& codec);

}  // namespace nibble
