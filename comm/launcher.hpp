// Who started this process, and as one of how many ranks: what launchers leave in the environment.
//
// Not for the ranks themselves, which only the communicator knows (world.hpp).
#pragma once

#include <functional>
#include <string>

namespace nibble {

/// The value of an environment variable, or a null pointer: std::getenv, or a table in tests.
using Environment = std::function<const char*(const char* name)>;

struct Launch {
  std::string launcher{};  ///< "Open MPI's mpirun"; empty when the program was started by hand
  std::string variable{};  ///< the variable that says how many ranks there are
  int ranks = 1;           ///< what it says
  bool mpi = false;        ///< there are others whom MPI would find; without it MPI_Init costs time for nothing
  std::string remedy{};    ///< what to do where MPI has found fewer ranks than the launcher started
};

/// The innermost launcher decides: `mpirun -np 1` inside a Slurm allocation for four tasks is one rank.
/// Throws Error{configuration} when the number of ranks is not one.
Launch find_launch(const Environment& environment);

/// Refuses the singleton trap: every process that a launcher started believes that it is alone, and all of them
/// compute the same run. `world_size` is what the communicator found, `has_mpi` whether the program was built with MPI.
/// Throws Error{configuration} with the launcher's name and the command that works.
void require_all_ranks(const Launch& launch, int world_size, bool has_mpi);

}  // namespace nibble
