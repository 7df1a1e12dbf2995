// Sums over ranks whose values travel as codes: every rank encodes its contribution, a part's owner decodes and adds
// all of them in the order of the ranks, and encodes the sum for the others.
//
// All ranks end with the same bits: the owner, too, takes what its own message says. Two codes of a value cost two
// errors; where it sends no more (two ranks), everybody gets all contributions instead, and there is one.
// Not for: codecs whose integers are summed (correlated_allreduce.hpp), error feedback.
#pragma once

#include <cstddef>
#include <vector>

#include "comm/bucket_codec.hpp"
#include "comm/collectives.hpp"
#include "comm/exchange.hpp"

namespace nibble {

/// Parts are as in collectives.hpp: parts[r] are the f32 pieces of the vector that rank r owns. Buckets begin anew with
/// each part and are numbered through all of them from source.first_bucket on; a source's rank is this one.
class QuantizedAllReduce {
 public:
  /// Throws as BucketCodec.
  explicit QuantizedAllReduce(const Codec& codec, Isa isa = Isa::avx2) : codec_(codec, isa) {}

  /// Each part becomes, on its owner or on all ranks, the sum over ranks of what their codes stand for; with one rank
  /// the vector stays as it is. False: the values of some rank are not encodable(); then all that would hold sums holds
  /// NaN, on all ranks. With `to_owner` the other parts stay.
  /// Throws Error{communication} for a damaged message, and as Communicator::transfer.
  [[nodiscard]] bool all_reduce(Communicator& communicator, const Parts& parts, const CodeSource& source, SumGoes goes);

  /// own = what this rank's codes stand for, of all parts one behind the other; NaN if its values are not encodable().
  void contribution(const Parts& parts, const CodeSource& source, std::span<float> own);

 private:
  bool can_encode(const Parts& parts) const;
  bool gather_contributions(Communicator& communicator, const Parts& parts, const CodeSource& source);
  bool scatter_contributions(Communicator& communicator, const Parts& parts, const CodeSource& source, bool encodable);
  bool gather_sums(Communicator& communicator, const Parts& parts, const CodeSource& source, bool encodable);

  BucketCodec codec_;
  std::vector<std::vector<std::byte>> outgoing_, incoming_;  ///< messages by rank
  std::vector<float> values_, sum_;
};

}  // namespace nibble
