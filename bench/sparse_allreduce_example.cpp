// Sums of vectors of your own of which few elements matter: the library in comm/ without the trainer.
//
//   mpirun -np 4 sparse_allreduce_example [elements [kept of every 512]]
//
// Every rank makes a vector, selects its largest elements, and keeps the rest for the next time. The ranks agree on the
// cheapest way of summing what was selected; the sum goes on beside other work, and its result is the same on all.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "comm/communication_thread.hpp"
#include "comm/error_feedback.hpp"
#include "comm/exchange_cost.hpp"
#include "comm/mpi_communicator.hpp"
#include "comm/sparse_allreduce.hpp"
#include "tensor/error.hpp"
#include "tensor/random.hpp"

namespace nibble {
namespace {

/// Another one on every rank and in every step.
std::vector<float> make_vector(int rank, int step, int64_t elements) {
  const RandomStream random(1, Purpose::sampling, static_cast<uint32_t>(step), static_cast<uint32_t>(rank));
  std::vector<float> values(static_cast<size_t>(elements));
  for (size_t i = 0; i < values.size(); ++i) values[i] = random.normal_pair(i / 2)[i % 2];
  return values;
}

void run(int64_t elements, int64_t kept) {
  CommunicationThread thread([] { return make_mpi_communicator(); });
  Stream stream(1);
  ErrorFeedback feedback(elements);
  // A network of 1 Gbit/s. Where these come from a measurement, ranks may pass different ones.
  const LinkCost link{.latency = 50e-6, .per_byte = 8e-9};
  std::vector<float> total(static_cast<size_t>(elements));

  for (int step = 0; step < 3; ++step) {
    const std::vector<float> mine = make_vector(thread.rank(), step, elements);
    SparseStream selected = feedback.select(stream, mine, {Selection::Of::buckets, kept}, Wire::f32);

    SumChoice choice;
    thread.run([&](Communicator& ranks) {
      choice = agree_on_sum(ranks, {.length = elements, .entries = selected.count()}, link);
    });
    // Where a dense sum is cheaper, the dense variant stands for it here.
    const SparseAlgorithm algorithm =
        choice.way == SumWay::dense ? SparseAlgorithm::dense_split : algorithm_of(choice.way);

    // The job is the handle of a sum that does not block: `submit` returns at once, `wait` when the sum is there.
    const CommunicationThread::Ticket sum = thread.submit([&](Communicator& ranks) {
      sparse_allreduce(ranks, std::move(selected), {.algorithm = algorithm, .label = static_cast<uint64_t>(step)})
          .write(total);
    });
    // ... other work ...
    thread.wait(sum);
    feedback.commit();

    if (thread.rank() != 0) continue;
    fmt::print("{}\n", describe(choice));
    fmt::print("step {}: {} elements of the sum are not zero; {:.3f} MB sent so far\n", step,
               std::ranges::count_if(total, [](float value) { return value != 0; }),
               static_cast<double>(thread.totals().bytes_sent) * 1e-6);
  }
}

}  // namespace
}  // namespace nibble

int main(int count, char** arguments) {
  try {
    nibble::run(count > 1 ? std::atoll(arguments[1]) : 1 << 20, count > 2 ? std::atoll(arguments[2]) : 4);
  } catch (const nibble::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return error.exit_code();
  }
}
