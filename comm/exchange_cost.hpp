// What a sum over ranks costs on a link, and which way of forming it costs least.
//
// Latency and bandwidth come in as measured; how many elements of the sum have entries is what independent supports
// would give, an upper estimate for gradients. What ranks compute counts as far as it was measured: as a factor of each
// way. The choice is made from numbers that all ranks share, so that all make the same.
// Not for: measuring a link, or what ranks compute.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.hpp"
#include "comm/sparse_allreduce.hpp"

namespace nibble {

enum class SumWay { dense, recursive_doubling, split, dense_split };
inline constexpr std::array all_ways = {SumWay::dense, SumWay::recursive_doubling, SumWay::split, SumWay::dense_split};

struct LinkCost {
  double latency = 0;   ///< seconds that a message takes beside its bytes
  double per_byte = 0;  ///< seconds for a byte; 0: nothing is known of the link, and a choice is made by bytes alone
  /// By SumWay: what a sum took, selection and all, against its messages and bytes alone.
  std::array<double, all_ways.size()> computing{1, 1, 1, 1};
};

/// A sum as far as its cost depends on it.
struct SumSize {
  int ranks = 1;
  int64_t length = 0;   ///< elements of the vector
  int64_t entries = 0;  ///< of the rank that has most
  Wire contributions = Wire::f32, sums = Wire::f32;
  Wire dense = Wire::f32;             ///< how the dense sum would travel, both times
  const DenseCodec* codec = nullptr;  ///< of the dense variant of the sparse sum
};

std::string_view name(SumWay way);
/// Of a way that is sparse.
SparseAlgorithm algorithm_of(SumWay way);

struct SumCost {
  SumWay way = SumWay::dense;
  double bytes = 0;    ///< that the rank sends which sends most
  double seconds = 0;  ///< until the last rank has the sum
  bool allowed = true;
};

/// N (1 - (1 - k / N)^P): elements of a sum of P vectors with k entries at random places.
double expected_entries(int64_t length, double entries, int vectors);

/// Of every way, in the order of SumWay. One that does not send fewer bytes than the dense one is not allowed, though
/// it may take fewer messages. Streams that fill up are counted as the dense ones that they become.
std::vector<SumCost> sum_costs(const SumSize& size, const LinkCost& link);

struct SumChoice {
  SumSize size;
  LinkCost link;
  std::vector<SumCost> costs;
  SumWay way = SumWay::dense;  ///< the fastest that is allowed
};

SumChoice choose_sum(const SumSize& size, const LinkCost& link);

/// The same on every rank: from the most entries that a rank has and the slowest link that one has measured. Everything
/// else must be the same on all ranks already.
SumChoice agree_on_sum(Communicator& communicator, SumSize size, LinkCost link);

/// One line for a run's record: what was chosen, from what, and what the others would have cost.
std::string describe(const SumChoice& choice);

}  // namespace nibble
