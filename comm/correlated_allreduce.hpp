// Sums over ranks of correlated codes: integers are added, so the result depends on nobody's order.
//
// Ranks first agree on each bucket's range. Then a part's owner counts all ranks' codes and sends the counts, in as
// many bits as they need; or, where that is no more to send, everybody gets all codes and counts itself. The sum is the
// same either way, bit for bit. Not for: codecs that every rank decodes alone (quantized_allreduce.hpp).
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "comm/code_message.hpp"
#include "comm/collectives.hpp"
#include "comm/correlated_codec.hpp"
#include "comm/segment_pipeline.hpp"

namespace nibble {

/// Parts, buckets and source as in quantized_allreduce.hpp.
class CorrelatedAllReduce final : private SegmentPipeline {
 public:
  enum class Way { cheaper, owners_count, everybody_counts };

  /// Throws as CorrelatedCodec. `way`: of sums that go to all.
  CorrelatedAllReduce(const Codec& codec, int ranks, Isa isa = Isa::avx2, Way way = Way::cheaper)
      : codec_(codec, ranks, isa), way_(way) {}

  /// As QuantizedAllReduce::all_reduce.
  [[nodiscard]] bool all_reduce(Communicator& communicator, const Parts& parts, const CodeSource& source, SumGoes goes);

 private:
  struct Segment {
    std::span<float> prepared;  ///< as many as codes; the sum's values take the place of the first of them
    std::span<float> ranges;
    int64_t values = 0;
    CodeSource source;  ///< of its first bucket
  };
  struct Part {
    std::span<float> values;  ///< where the sum of its segments comes together
    std::vector<Segment> segments;
  };

  /// Fills parts_, and ranges_ with this rank's.
  void prepare(const Parts& parts, const CodeSource& source);
  bool everybody_counts() const;
  const Segment& at(int part, size_t segment) const { return parts_[static_cast<size_t>(part)].segments[segment]; }
  /// `from`: who sends it.
  CodeTerms terms_of(const Segment& segment, int from) const;

  size_t segments(int part) const override { return parts_[static_cast<size_t>(part)].segments.size(); }
  size_t bytes_of_codes(int part, size_t segment) const override;
  size_t bytes_of_sum(int part, size_t segment) const override;
  void encode(int part, size_t segment, std::span<std::byte> message) override;
  void add(int part, size_t segment, const Messages& messages) override;
  void keep_sum(int part, size_t segment) override;
  void encode_sum(int part, size_t segment, std::span<std::byte> message) override;
  void decode_sum(int part, size_t segment, std::span<const std::byte> message) override;

  CorrelatedCodec codec_;
  Way way_;
  int rank_ = 0;
  std::vector<int> order_;  ///< of the ranks
  std::vector<Part> parts_;
  std::vector<std::vector<float>> copies_;  ///< by part: of its values where they are rotated or lie in pieces
  std::vector<float> ranges_;
  uint64_t agreed_ = 0;           ///< hash of the ranges
  std::vector<uint16_t> counts_;  ///< of a segment
};

}  // namespace nibble
