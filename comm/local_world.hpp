// A world without a launcher: one rank, or the threads of one process in tests.
//
// Not for the ranks of mpirun or Slurm (world.hpp).
#pragma once

#include <memory>

#include "comm/world.hpp"

namespace nibble {

/// One of `ranks` ranks, the others of which do not exist: to build the parts of a rank and to weigh them. A transfer
/// throws Error{internal}.
std::unique_ptr<Communicator> make_imagined_communicator(int rank, int ranks);

/// The world of this communicator, on one host; nobody listens to where its ranks are.
std::unique_ptr<World> make_local_world(std::unique_ptr<Communicator> communicator = make_self_communicator());

}  // namespace nibble
