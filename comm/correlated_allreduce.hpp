// Sums over ranks of correlated codes: integers are added, so the result depends on nobody's order.
//
// Ranks first agree on each bucket's range. Then a part's owner counts all ranks' codes and sends the counts, in as
// many bits as they need; or, where that is no more to send, everybody gets all codes and counts itself. The sum is the
// same either way, bit for bit. A vector goes segment after segment: while some travel, others are encoded and decoded.
// Not for: codecs that every rank decodes alone (quantized_allreduce.hpp).
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "comm/code_message.hpp"
#include "comm/collectives.hpp"
#include "comm/correlated_codec.hpp"
#include "comm/exchange.hpp"

namespace nibble {

/// Parts, buckets and source as in quantized_allreduce.hpp.
class CorrelatedAllReduce {
 public:
  enum class Way { cheaper, owners_count, everybody_counts };

  /// Throws as CorrelatedCodec. `way`: of sums that go to all.
  CorrelatedAllReduce(const Codec& codec, int ranks, Isa isa = Isa::avx2, Way way = Way::cheaper)
      : codec_(codec, ranks, isa), way_(way) {}

  /// As QuantizedAllReduce::all_reduce.
  [[nodiscard]] bool all_reduce(Communicator& communicator, const Parts& parts, const CodeSource& source, SumGoes goes);

 private:
  /// Buckets of one part, whose codes travel in one message.
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
  using Messages = std::vector<std::vector<std::byte>>;  ///< by rank

  /// Fills ranges_ with this rank's.
  std::vector<Part> prepare(const Parts& parts, const CodeSource& source);
  bool everybody_counts() const;
  void gather_codes(Communicator& communicator, const std::vector<Part>& parts);
  void count_as_owner(Communicator& communicator, const std::vector<Part>& parts, SumGoes goes);
  /// Of a segment of every part, all codes to the owner, one transfer to each.
  void start_codes(Communicator& communicator, const std::vector<Part>& parts, size_t segment);
  /// Of a segment of every part, the owner's counts to all, in one transfer; counts_ holds those of the own part.
  void start_counts(Communicator& communicator, const std::vector<Part>& parts, size_t segment);
  void take_counts(const std::vector<Part>& parts, int rank, size_t segment);

  size_t code_bytes(const Segment& segment) const;
  size_t count_bytes(const Segment& segment) const;
  /// `from`: who sends it.
  CodeTerms terms_of(const Segment& segment, int from) const;
  void encode(const Segment& segment, int rank, std::vector<std::byte>& message);
  /// counts_ = the sum of the codes in all ranks' messages.
  void count(const Segment& segment, const Messages& messages);
  void decode(const Segment& segment);

  CorrelatedCodec codec_;
  Way way_;
  std::vector<int> order_;                  ///< of the ranks
  std::vector<std::vector<float>> copies_;  ///< by part: of its values where they are rotated or lie in pieces
  std::vector<float> ranges_;
  uint64_t agreed_ = 0;                                      ///< hash of the ranges
  std::vector<Messages> codes_, outgoing_, count_messages_;  ///< of segments that are under way, in turns
  std::vector<uint16_t> counts_;                             ///< of a segment
};

}  // namespace nibble
