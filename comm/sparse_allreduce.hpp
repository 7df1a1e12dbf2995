// The sum of one sparse stream of every rank, on every rank: SparCML's three ways (sparse_stream.hpp names the source).
//
// Every rank ends with the same bits, whoever arrives first and however many ranks there are. A small library of its
// own: bring a Communicator and streams. It blocks; as a job of a CommunicationThread it goes on beside other work.
// Not for: which of the ways is fastest (exchange_cost.hpp), what is selected (top_k.hpp).
#pragma once

#include <cstdint>
#include <string_view>

#include "comm/collectives.hpp"
#include "comm/dense_codec.hpp"
#include "comm/sparse_stream.hpp"

namespace nibble {

enum class SparseAlgorithm {
  /// Whole streams, log2 P times: the fewest messages. Summed in the tree of the ranks; those beyond a power of two
  /// give
  /// theirs to a neighbour first and get the result last.
  recursive_doubling,
  /// Every rank sums one part of the vector, in the order of the ranks, and all gather the parts.
  split,
  /// The same with dense sums: for those of which most elements are not zero.
  dense_split
};

std::string_view name(SparseAlgorithm algorithm);

struct SparseAllreduce {
  SparseAlgorithm algorithm = SparseAlgorithm::split;
  /// How the ranks' streams travel; this rank's own is rounded like the others. With recursive doubling partial sums
  /// travel so too.
  Wire contributions = Wire::f32;
  /// How the sums of parts travel to all; not for recursive doubling.
  Wire sums = Wire::f32;
  /// Of dense_split: how its sums travel instead.
  const DenseCodec* codec = nullptr;
  /// The same on all ranks, and best another one for every sum: a message of another sum is refused.
  uint64_t label = 0;
};

/// All ranks call it with the same `how` and streams of the same length. Throws Error{communication} for what does not
/// arrive, or arrives other than it was sent; Error{configuration} for a vector that check_indexable refuses.
SparseStream sparse_allreduce(Communicator& communicator, SparseStream mine, const SparseAllreduce& how);

/// The same, written as the vector that it is; `all` has as many elements. With dense_split that needs no other memory.
void sparse_allreduce(Communicator& communicator, SparseStream mine, const SparseAllreduce& how, std::span<float> all);

/// The first half of `split`: the sum of this rank's part alone, elements [begins[rank], begins[rank + 1]) of the
/// vector, in the order of the ranks. `contributions` as above. Throws as sparse_allreduce.
SparseStream sparse_reduce_scatter(Communicator& communicator, const SparseStream& mine,
                                   std::span<const int64_t> begins, Wire contributions, uint64_t label);

/// Where the part of `rank` begins: parts are whole blocks, about the same number for each. For rank = ranks: `length`.
int64_t part_begin(int64_t length, int ranks, int rank, int64_t block_elements = bucket_elements);

}  // namespace nibble
