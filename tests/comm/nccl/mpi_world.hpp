// The double's messages between processes. MPI must have begun, and be called by one thread.
#pragma once

#include <vector>

#include "tests/comm/nccl/double_world.hpp"

namespace nibble::nccl_double {

/// Of these ranks of MPI, in the order of their ranks in the world; each is one process, with a device of its own.
std::shared_ptr<World> make_mpi_world(const std::vector<int>& members);

}  // namespace nibble::nccl_double
