// Sums over ranks of correlated codes: integers are added, so the result depends on nobody's order.
//
// Ranks first agree on each bucket's range. Then a part's owner counts all ranks' codes and sends the counts, in as
// many bits as they need; or, where that is no more to send, everybody gets all codes and counts itself. The sum is the
// same either way, bit for bit. Not for: codecs that every rank decodes alone (quantized_allreduce.hpp).
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

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
  /// What is known of a part.
  struct Part {
    int64_t values = 0, codes = 0, first_bucket = 0, buckets = 0;
    size_t code_bytes = 0, count_bytes = 0;
  };
  std::vector<Part> plan(const Parts& parts) const;
  std::span<const float> prepared(const Pieces& pieces, const Part& part, const CodeSource& source,
                                  std::vector<float>& copy);
  bool everybody_counts(const std::vector<Part>& plan, SumGoes goes) const;
  void gather_codes(Communicator& communicator, const std::vector<Part>& plan, const CodeSource& source);
  void count_as_owner(Communicator& communicator, const std::vector<Part>& plan, const CodeSource& source);
  void gather_counts(Communicator& communicator, const std::vector<Part>& plan, const CodeSource& source);
  void encode(const std::vector<Part>& plan, size_t part, const CodeSource& source, std::span<std::byte> codes);

  CorrelatedCodec codec_;
  Way way_;
  std::vector<int> order_;                                   ///< of the ranks
  std::vector<std::span<const float>> prepared_;             ///< by part; the part itself where nothing rotates it
  std::vector<std::vector<float>> copies_, ranges_;          ///< by part
  std::vector<std::vector<uint16_t>> counts_;                ///< by part
  std::vector<std::vector<std::byte>> outgoing_, incoming_;  ///< by rank
  std::vector<float> values_;
};

}  // namespace nibble
