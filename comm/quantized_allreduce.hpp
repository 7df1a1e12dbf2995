// Sums over ranks whose values travel as codes: every rank encodes its contribution, a part's owner decodes and adds
// all of them in the order of the ranks, and encodes the sum for the others.
//
// All ranks end with the same bits: the owner, too, takes what its own message says. Two codes of a value cost two
// errors; where it sends no more (two ranks), everybody gets all contributions instead, and there is one.
// Not for: codecs whose integers are summed (correlated_allreduce.hpp), error feedback.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "comm/code_message.hpp"
#include "comm/collectives.hpp"
#include "comm/segment_codes.hpp"
#include "comm/segment_pipeline.hpp"

namespace nibble {

/// Parts are as in collectives.hpp: parts[r] are the f32 pieces of the vector that rank r owns. Buckets begin anew with
/// each part and are numbered through all of them from source.first_bucket on; a source's rank is this one.
class QuantizedAllReduce final : private SegmentPipeline {
 public:
  /// Of values in the host's memory. Throws as BucketCodec.
  explicit QuantizedAllReduce(const Codec& codec, Isa isa = Isa::avx2)
      : QuantizedAllReduce(make_segment_codes(codec, isa)) {}
  /// Of values where `codes` has them.
  explicit QuantizedAllReduce(std::unique_ptr<SegmentCodes> codes)
      : SegmentPipeline(codes->memory_of_messages()), codes_(std::move(codes)) {}

  /// So that memory is there before the first sum of such parts, that of messages too.
  void reserve(const std::vector<int64_t>& part_elements, SumGoes goes);

  /// Each part becomes, on its owner or on all ranks, the sum over ranks of what their codes stand for; with one rank
  /// the vector stays as it is. False: the values of some rank are not encodable(); then all that would hold sums holds
  /// NaN, on all ranks. With `to_owner` the other parts stay. `own`, if it is not empty, becomes what this rank's codes
  /// stand for, of all parts one behind the other; NaN if its values are not encodable(). Messages travel between the
  /// ranks' hosts (Communicator::host).
  /// Throws Error{communication} for a damaged message, and as Communicator::transfer.
  [[nodiscard]] bool all_reduce(Communicator& ranks, const Parts& parts, const CodeSource& source, SumGoes goes,
                                std::span<float> own = {});

 private:
  /// Whether everybody adds, which then sends no more than owners do.
  static bool adds_everywhere(int ranks, SumGoes goes) { return goes == SumGoes::to_all && ranks == 2; }
  /// Fills parts_.
  void prepare(const Parts& parts, const CodeSource& source);
  const CodedSegment& at(int part, size_t segment) const { return parts_[static_cast<size_t>(part)].segments[segment]; }
  /// `from`: who sends it.
  CodeTerms terms_of(const CodedSegment& segment, int from) const;

  size_t segments(int part) const override { return parts_[static_cast<size_t>(part)].segments.size(); }
  size_t bytes_of_codes(int part, size_t segment) const override;
  size_t bytes_of_sum(int part, size_t segment) const override { return bytes_of_codes(part, segment); }
  void encode(int part, size_t segment, std::span<std::byte> message) override;
  void add(int part, size_t segment, const Messages& messages) override;
  void keep_sum(int, size_t) override {}  // it lies where the values were
  void encode_sum(int part, size_t segment, std::span<std::byte> message) override;
  void decode_sum(int part, size_t segment, std::span<const std::byte> message) override;
  void release(std::span<const std::byte> message) override { codes_->release(message); }

  std::unique_ptr<SegmentCodes> codes_;
  int rank_ = 0, ranks_ = 1;
  std::vector<CodedPart> parts_;
  bool encodable_ = true;   ///< this rank's values
  bool everybodys_ = true;  ///< those of all messages so far
  bool added_ = true;       ///< those of the segment that was added last
};

}  // namespace nibble
