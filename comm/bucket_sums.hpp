// The sums that exchanges are made of; each keeps what it remembers of one bucket.
//
// Leaves move values between ranks; the others decide what a leaf is given, and what becomes of its result. All work
// where the place has its values, but for make_lattice_sum and some codecs of make_quantized_sum (codes_on_device),
// which take the host's.
// Not for: which settings ask for which (trainer/gradient_exchange.hpp).
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "comm/bucket_sum.hpp"
#include "comm/code_source.hpp"
#include "comm/codec.hpp"
#include "comm/error_feedback.hpp"
#include "comm/exchange_cost.hpp"

namespace nibble {

using BucketSumPointer = std::unique_ptr<BucketSum>;

// Leaves.

/// Every value of every rank, added in the tree of the ranks.
BucketSumPointer make_dense_sum(const BucketPlace& place, Wire wire);

struct SparseSumOptions {
  Selection selection{};
  bool error_feedback = true;
  Wire wire = Wire::f32;  ///< of the values of every stream, and of dense sums
  SparseAlgorithm algorithm = SparseAlgorithm::split;
  std::optional<Codec> codec{};  ///< of dense_split: how its sums travel
};

/// SparCML's Top-k sums. Throws Error{configuration} as ErrorFeedback and check_top_k.
BucketSumPointer make_sparse_sum(const BucketPlace& place, const SparseSumOptions& options);

/// Sums of codes, in two phases (quantized_allreduce.hpp, correlated_allreduce.hpp). Those of correlated codecs do not
/// tell a rank's own. Of values in a device's memory, with codecs that codes_on_device, only codes leave it; their
/// messages are the host's.
BucketSumPointer make_quantized_sum(const BucketPlace& place, const Codec& codec);
/// Whether a device makes such a codec's codes: those that ranks make alone, with buckets that a block of threads holds
/// where they are rotated.
bool codes_on_device(const Codec& codec);

/// Every rank sends some coordinates as they are; `kept` is their share, 0 for a permutation (PermK). A device's are
/// gathered and added by kernels of its own, and nothing else travels.
BucketSumPointer make_coordinate_sum(const BucketPlace& place, double kept);

/// Lattice codes, decoded from each rank's own values; sums whose ranks turn out to be further apart than they were
/// taken to be are sent dense, and so is the first.
BucketSumPointer make_lattice_sum(const BucketPlace& place, const Codec& codec);

// Around others.

/// What `inner` did not send of a rank's values is added to its next ones.
BucketSumPointer make_feedback_sum(const BucketPlace& place, BucketSumPointer inner);

/// EF21: each rank sends how far its gradient is from its own estimate (Richtarik et al., arXiv 2106.05203).
BucketSumPointer make_ef21_sum(const BucketPlace& place, BucketSumPointer inner);

struct MarinaOptions {
  double full_probability = 0.1;
  int64_t full_batches = 1;  ///< of which full steps are
  int64_t noise_every = 32;  ///< steps between measurements of the noise of differences; 0: none
};

/// MARINA (Gorbunov et al., arXiv 2102.07845): in some steps the gradients, summed by `full`, else
/// what `difference` makes of the gradients' difference between two points, on top of the estimate of before.
BucketSumPointer make_marina_sum(const BucketPlace& place, const MarinaOptions& options, BucketSumPointer full,
                                 BucketSumPointer difference);

/// `dense` before `steps`, `inner` from then on.
BucketSumPointer make_warm_up_sum(int64_t steps, BucketSumPointer dense, BucketSumPointer inner);

/// A sum of values in a device's memory: fetched, summed by the ranks' hosts (Communicator::host) to the same bits as
/// theirs, and put back, as is `own`. `make_inner` is given the place with its values in the host's memory; what that
/// sum remembers stays there.
BucketSumPointer make_sum_on_host(const BucketPlace& place,
                                  const std::function<BucketSumPointer(const BucketPlace&)>& make_inner);

/// Sums of a device's values in correlated codes: codes, their sum as integers by the links
/// (DeviceCommunicator::all_reduce), and what it stands for, all in the device's memory, to the bits of `on_host`,
/// which is taken where links do not reduce. Of codecs that counts_on_device.
BucketSumPointer make_count_sum(const BucketPlace& place, const Codec& codec, BucketSumPointer on_host);
bool counts_on_device(const Codec& codec);

/// Full precision among the ranks of a host, `inner` between those that stand at the same place on their hosts.
/// `host` by rank; every host has as many ranks. `make_inner` is given the place within those ranks.
BucketSumPointer make_hierarchical_sum(const BucketPlace& place, const std::vector<int>& host,
                                       const std::function<BucketSumPointer(const BucketPlace&)>& make_inner);

}  // namespace nibble
