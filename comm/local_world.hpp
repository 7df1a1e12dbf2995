// A world without a launcher: one rank, or the threads of one process in tests.
//
// Not for the ranks of mpirun or Slurm (world.hpp).
#pragma once

#include <memory>

#include "comm/world.hpp"

namespace nibble {

/// The world of this communicator, on one host; nobody listens to where its ranks are.
std::unique_ptr<World> make_local_world(std::unique_ptr<Communicator> communicator = make_self_communicator());

}  // namespace nibble
