// The collectives over MPI: every rank that mpirun starts runs this program.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>

#include "comm/mpi_communicator.hpp"
#include "tensor/error.hpp"
#include "tests/comm/collective_checks.hpp"
#include "tests/comm/sparse_checks.hpp"

namespace nibble {
namespace {

// Larger messages travel in several of this size.
constexpr size_t largest_message = 100'001;

Communicator* world = nullptr;

TEST(Mpi, CollectivesOfSmallThings) {
  barrier(*world);
  check_broadcast(*world);
  check_gather_of_numbers(*world);
  check_gather_of_texts(*world);
}

TEST(Mpi, CollectivesOfParts) {
  check_all_gather(*world);
  for (const Wire wire : {Wire::f32, Wire::bf16}) {
    check_scatter_to_owners(*world, wire);
    check_reduce_scatter(*world, wire);
    check_equal_on_all_ranks(*world, wire);
    check_bytes_sent(*world, wire);
  }
}

TEST(Mpi, SparseSums) {
  check_exact_sums(*world);
  check_order_of_sums(*world);
  check_sparse_equal_on_all_ranks(*world);
}

/// Rank 0 sends `sent` bytes, rank 1 expects others: ends rank 1 with its error, and thereby all.
void send_wrong_size(Communicator& communicator, size_t sent, size_t expected) {
  std::vector<std::byte> bytes(communicator.rank() == 0 ? sent : expected);
  const Communicator::Send send{1, bytes};
  const Communicator::Receive receive{0, bytes};
  if (communicator.rank() == 0) communicator.transfer({&send, 1}, {});
  if (communicator.rank() == 1) communicator.transfer({}, {&receive, 1});
  barrier(communicator);
}

}  // namespace
}  // namespace nibble

/// mpi_test [SENT EXPECTED]: the tests, or a message of a wrong size.
int main(int count, char** arguments) {
  testing::InitGoogleTest(&count, arguments);
  try {
    const std::unique_ptr<nibble::Communicator> communicator = nibble::make_mpi_communicator(nibble::largest_message);
    if (count == 3) nibble::send_wrong_size(*communicator, std::stoull(arguments[1]), std::stoull(arguments[2]));
    nibble::world = communicator.get();
    const int failed = RUN_ALL_TESTS();
    // The others may wait for a rank that has failed; one that ends without finalising MPI ends them all.
    if (failed) communicator->abandon();
    return failed;
  } catch (const nibble::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return error.exit_code();
  }
}
