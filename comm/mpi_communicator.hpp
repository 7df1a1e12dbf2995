// The ranks of an MPI job. Exists only where MPI was found at configure time (NIBBLE_MPI).
//
// Not for: whether this process is a rank of a job at all (world.hpp).
#pragma once

#include <cstddef>
#include <memory>

#include "comm/communicator.hpp"

namespace nibble {

/// MPI counts bytes in an int; what is larger than this travels as several messages.
inline constexpr size_t largest_mpi_message = size_t{1} << 30;

/// Initialises MPI, once in a process. The calling thread must be the only one that uses the communicator, and destroy
/// it; that finalises MPI, in which all ranks wait for each other, unless the communicator was abandoned.
/// An abandoned rank must end its process soon: messages may still be on their way into its memory.
/// Throws Error{communication} when MPI does not start.
std::unique_ptr<Communicator> make_mpi_communicator(size_t largest_message = largest_mpi_message);

}  // namespace nibble
