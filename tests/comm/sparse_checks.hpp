// The sparse sums against the sum of the whole vectors, over any communicator; as collective_checks.hpp.
#pragma once

#include "comm/sparse_allreduce.hpp"

namespace nibble {

/// On values whose sums are exact every way gives, bit for bit, what dense sums give: on vectors that are empty,
/// shorter than the ranks, and of all densities.
void check_exact_sums(Communicator& communicator);
/// On any values the ways over parts add in the order of the ranks, and recursive doubling in its tree.
void check_order_of_sums(Communicator& communicator);
/// The same bits on all ranks, however values travel.
void check_sparse_equal_on_all_ranks(Communicator& communicator);

}  // namespace nibble
