// Each collective against a reference that every rank computes alone, over any communicator.
//
// All ranks of a world call the same check; what is wrong is reported by GoogleTest.
#pragma once

#include "comm/collectives.hpp"

namespace nibble {

void check_broadcast(Communicator& communicator);
void check_gather_of_numbers(Communicator& communicator);
void check_gather_of_texts(Communicator& communicator);
void check_all_gather(Communicator& communicator);
void check_scatter_to_owners(Communicator& communicator, Wire wire);
void check_reduce_scatter(Communicator& communicator, Wire wire);
/// Sum and gather leave the same bits on all ranks.
void check_equal_on_all_ranks(Communicator& communicator, Wire wire);
/// Of the sum and of the gather: exactly the parts that others need.
void check_bytes_sent(Communicator& communicator, Wire wire);

}  // namespace nibble
