// Ranks as processes, each with an emulated device: the host's messages go over MPI, NCCL's double has them do so, too.
// Every rank that mpirun starts runs this program.
#include <gtest/gtest.h>

#include <cstdio>
#include <numeric>

#include "comm/device_communicator.hpp"
#include "comm/mpi_communicator.hpp"
#include "tests/comm/collective_checks.hpp"
#include "tests/comm/nccl/mpi_world.hpp"
#include "tests/comm/nccl/nccl_double.hpp"

namespace nibble {
namespace {

std::shared_ptr<Communicator> host;

class DevicesOverMpi : public testing::Test {
 protected:
  ~DevicesOverMpi() override {
    EXPECT_EQ(nccl_double::violations(), std::vector<std::string>());
    nccl_double::reset();
  }

  static void check(Communicator& communicator) {
    barrier(communicator);
    check_broadcast(communicator);
    check_gather_of_numbers(communicator);
    check_all_gather(communicator);
    check_scatter_to_owners(communicator, Wire::f32);
    for (const Wire wire : {Wire::f32, Wire::bf16}) check_reduce_scatter(communicator, wire);
    check_equal_on_all_ranks(communicator, Wire::bf16);
  }

  static std::shared_ptr<Stream> stream() { return std::make_shared<Stream>(1, Place::device); }
};

TEST_F(DevicesOverMpi, OverNccl) {
  std::vector<int> all(static_cast<size_t>(host->size()));
  std::iota(all.begin(), all.end(), 0);
  nccl_double::use([&](int) { return nccl_double::make_mpi_world(all); });
  check(*make_nccl_communicator(host, stream(), {}));
}

TEST_F(DevicesOverMpi, ThroughTheHost) { check(*make_staged_communicator(host, stream())); }

TEST_F(DevicesOverMpi, NcclWithinHostsOfTwo) {
  std::vector<int> host_of, neighbours;
  for (int rank = 0; rank < host->size(); ++rank) {
    host_of.push_back(rank / 2);
    if (rank / 2 == host->rank() / 2) neighbours.push_back(rank);
  }
  nccl_double::use([&](int) { return nccl_double::make_mpi_world(neighbours); });
  check(*make_hierarchical_communicator(host, stream(), host_of, {}));
}

}  // namespace
}  // namespace nibble

int main(int count, char** arguments) {
  testing::InitGoogleTest(&count, arguments);
  try {
    nibble::host = nibble::make_mpi_communicator();
    const int failed = RUN_ALL_TESTS();
    // The others may wait for a rank that has failed; one that ends without finalising MPI ends them all.
    if (failed) nibble::host->abandon();
    nibble::host.reset();
    return failed;
  } catch (const nibble::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return error.exit_code();
  }
}
