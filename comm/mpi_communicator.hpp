// The ranks of an MPI job. Exists only where MPI was found at configure time (NIBBLE_MPI).
//
// Not for: whether this process is a rank of a job at all (world.hpp).
#pragma once

#include <cstddef>
#include <memory>

#include "comm/communicator.hpp"

namespace nibble {

/// What is larger travels as several messages of this size. Open MPI sends up to 64 KiB, with its header, over TCP
/// without asking the receiver first; the answer would queue behind whatever the receiver itself is sending, so that of
/// two ranks that send to each other only one would at a time (measured: 61 of 118 MB/s).
inline constexpr size_t largest_mpi_message = 63 * 1024;

/// Initialises MPI, once in a process. The calling thread must be the only one that uses the communicator, and destroy
/// it; that finalises MPI, in which all ranks wait for each other, unless the communicator was abandoned.
/// An abandoned rank must end its process soon: messages may still be on their way into its memory.
/// Throws Error{communication} when MPI does not start.
std::unique_ptr<Communicator> make_mpi_communicator(size_t largest_message = largest_mpi_message);

}  // namespace nibble
