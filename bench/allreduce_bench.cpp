// Sum and gather of a vector of floats over all ranks, against Open MPI's MPI_Allreduce in the same run.
//
//   mpirun -np 4 allreduce_bench [repetitions [MiB ...]]
//
// Each repetition takes the candidates in turn, and each begins at a barrier. Printed are the medians of the slowest
// rank, the bus bandwidth (2 (P - 1) / P of the vector's f32 bytes by the time, so that an algorithm that sends less
// shows more), and the time as a share of MPI_Allreduce's. Which algorithm that is, its own settings say
// (coll_tuned_allreduce_algorithm 4 is the ring).
#define OMPI_SKIP_MPICXX 1
#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "comm/collectives.hpp"
#include "comm/mpi_communicator.hpp"
#include "tensor/error.hpp"
#include "tensor/simd.hpp"

namespace nibble {
namespace {

/// One vector of f32 and one of bf16, each cut in equal parts of one piece.
class Vectors {
 public:
  Vectors(int ranks, int64_t elements)
      : elements_(elements), floats_(DType::f32, 1, elements), halves_(DType::bf16, 1, elements) {
    for (int64_t i = 0; i < elements; ++i) values()[i] = static_cast<float>(i % 17 - 8);
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const int64_t begin = elements * rank / ranks, count = elements * (rank + 1) / ranks - begin;
      float_parts.push_back({std::as_writable_bytes(std::span(values() + begin, static_cast<size_t>(count)))});
      half_parts.push_back({std::as_writable_bytes(std::span(rounded() + begin, static_cast<size_t>(count)))});
    }
  }

  float* values() const { return floats_.view().as<float>(); }
  bf16* rounded() const { return halves_.view().as<bf16>(); }
  int64_t elements() const { return elements_; }

  Parts float_parts, half_parts;

 private:
  int64_t elements_;
  OwnedTensor floats_, halves_;
};

void sum_in_f32(Communicator& communicator, const Vectors& vectors) {
  reduce_scatter(communicator, vectors.float_parts, Wire::f32);
  all_gather(communicator, vectors.float_parts);
}

/// As a step does it: the owner of a part rounds what it made of the sum, and the others get it rounded.
void sum_in_bf16(Communicator& communicator, const Vectors& vectors) {
  reduce_scatter(communicator, vectors.float_parts, Wire::bf16);
  const int64_t begin = vectors.elements() * communicator.rank() / communicator.size();
  const int64_t end = vectors.elements() * (communicator.rank() + 1) / communicator.size();
  simd::for_each_group(end - begin, [&](int64_t i, int64_t n) {
    simd::store_n(vectors.rounded() + begin + i, simd::load_n(vectors.values() + begin + i, n), n);
  });
  all_gather(communicator, vectors.half_parts);
}

void sum_by_mpi(const Vectors& vectors) {
  MPI_Allreduce(MPI_IN_PLACE, vectors.values(), static_cast<int>(vectors.elements()), MPI_FLOAT, MPI_SUM,
                MPI_COMM_WORLD);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void measure(Communicator& communicator, int64_t mebibytes, int repetitions) {
  const Vectors vectors(communicator.size(), mebibytes * (1 << 20) / 4);
  const std::array<std::function<void()>, 3> candidates = {[&] { sum_by_mpi(vectors); },
                                                           [&] { sum_in_f32(communicator, vectors); },
                                                           [&] { sum_in_bf16(communicator, vectors); }};
  std::array<std::vector<double>, 3> seconds;
  for (int repetition = -1; repetition < repetitions; ++repetition)  // the first warms up
    for (size_t i = 0; i < candidates.size(); ++i) {
      barrier(communicator);
      const auto begin = std::chrono::steady_clock::now();
      candidates[i]();
      const double mine = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      std::vector<double> all(static_cast<size_t>(communicator.size()));
      gather_all(communicator, {&mine, 1}, std::vector<int64_t>(all.size(), 1), all);
      if (repetition >= 0) seconds[i].push_back(*std::max_element(all.begin(), all.end()));
    }
  if (communicator.rank() != 0) return;
  const double ranks = communicator.size(), reference = median(seconds[0]);
  const double bus_megabytes = 2 * (ranks - 1) / ranks * static_cast<double>(mebibytes << 20) * 1e-6;
  const std::array<const char*, 3> names = {"MPI_Allreduce", "f32", "bf16 wire"};
  for (size_t i = 0; i < candidates.size(); ++i) {
    const double time = median(seconds[i]);
    fmt::print("{:5} MiB  {:<13}  {:9.2f} ms  {:8.1f} MB/s  {:5.3f}\n", mebibytes, names[i], time * 1e3,
               bus_megabytes / time, time / reference);
  }
  std::fflush(stdout);
}

}  // namespace
}  // namespace nibble

int main(int count, char** arguments) {
  try {
    const std::unique_ptr<nibble::Communicator> communicator = nibble::make_mpi_communicator();
    const int repetitions = count > 1 ? std::max(1, std::atoi(arguments[1])) : 9;
    if (communicator->rank() == 0)
      fmt::print("{} ranks, medians of {}\n     size  sum                 time    bus bandwidth  of MPI's time\n",
                 communicator->size(), repetitions);
    std::vector<int64_t> sizes;
    for (int i = 2; i < count; ++i) sizes.push_back(std::max(1, std::atoi(arguments[i])));
    if (sizes.empty()) sizes = {1, 4, 16, 64};
    for (const int64_t mebibytes : sizes) nibble::measure(*communicator, mebibytes, repetitions);
  } catch (const nibble::Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return error.exit_code();
  }
}
