// What stands beside the program's main() where its GPUs are emulated: each process has one of its own, and NCCL's
// double carries messages between them over MPI. For tests of whole runs under mpirun.
#include <numeric>
#include <vector>

#include "tests/comm/nccl/mpi_world.hpp"
#include "tests/comm/nccl/nccl_double.hpp"

namespace nibble {
namespace {

[[maybe_unused]] const bool between_processes = [] {
  nccl_double::use([](int ranks) {
    std::vector<int> all(static_cast<size_t>(ranks));
    std::iota(all.begin(), all.end(), 0);
    return nccl_double::make_mpi_world(all);
  });
  return true;
}();

}  // namespace
}  // namespace nibble
