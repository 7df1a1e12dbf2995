#include "comm/launcher.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cstring>

#include "tensor/error.hpp"

namespace nibble {
namespace {

/// What a launcher leaves in the environment of the processes that it starts.
struct Mark {
  const char* launcher;
  const char* sign;   ///< a variable that must be set
  const char* ranks;  ///< the variable that holds their number; null where there is none
  bool mpi;           ///< MPI_Init finds the other ranks
  const char* remedy;
};

constexpr const char* remedy_under_slurm =
    "use `srun --mpi=pmix nibble train run.yaml`, or mpirun inside the sbatch script as launch/slurm.sbatch does; "
    "for one rank `mpirun -np 1 nibble train run.yaml`";

/// From the innermost launcher to the outermost: mpirun runs inside an allocation of Slurm, not around it.
/// Open MPI knows srun through PMIx alone; else it ends the process in MPI_Init with a message of its own, so that is
/// not called.
constexpr Mark marks[] = {
    {"Open MPI's mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", true,
     "use the mpirun that belongs to the MPI library which `ldd nibble` names"},
    {"srun --mpi=pmix", "PMIX_RANK", "SLURM_NTASKS", true,
     "Slurm and the MPI library do not share a version of PMIx: call mpirun inside the sbatch script, as "
     "launch/slurm.sbatch does"},
    {"srun --mpi=pmi2", "PMI_SIZE", "SLURM_NTASKS", false, remedy_under_slurm},
    {"mpiexec (PMI)", "PMI_SIZE", "PMI_SIZE", true,
     "the MPI library does not know this launcher: use `mpirun -np {0} nibble train run.yaml`"},
    {"Slurm", "SLURM_NTASKS", "SLURM_NTASKS", false, remedy_under_slurm},
    {"PMIx", "PMIX_RANK", nullptr, true, ""},
    {"torchrun", "WORLD_SIZE", "WORLD_SIZE", false,
     "use `mpirun -np {0} nibble train run.yaml`; for one rank unset WORLD_SIZE"},
};

int parse_ranks(const char* variable, const char* text) {
  int ranks = 0;
  const char* const end = text + std::strlen(text);
  const auto [stop, failure] = std::from_chars(text, end, ranks);
  if (failure != std::errc() || stop != end || ranks < 1)
    throw Error({.kind = ErrorKind::configuration,
                 .what = "the number of ranks in the environment is not a number",
                 .where = fmt::format("environment variable {}", variable),
                 .seen = fmt::format("{}={}", variable, text),
                 .allowed = "a whole number from 1",
                 .next = fmt::format("unset {}, or start the ranks with mpirun", variable)});
  return ranks;
}

}  // namespace

Launch find_launch(const Environment& environment) {
  for (const Mark& mark : marks) {
    if (!environment(mark.sign)) continue;
    if (!mark.ranks) return {.launcher = mark.launcher, .variable = mark.sign, .mpi = true};
    const char* const text = environment(mark.ranks);
    if (!text) continue;
    const int ranks = parse_ranks(mark.ranks, text);
    return {.launcher = mark.launcher,
            .variable = mark.ranks,
            .ranks = ranks,
            .mpi = mark.mpi && ranks > 1,
            .remedy = fmt::format(fmt::runtime(mark.remedy), ranks)};
  }
  return {};
}

void require_all_ranks(const Launch& launch, int world_size, bool has_mpi) {
  if (world_size >= launch.ranks) return;
  throw Error({.kind = ErrorKind::configuration,
               .what = fmt::format("{} started {} ranks, but this process finds {}", launch.launcher, launch.ranks,
                                   world_size == 1 ? "itself alone" : fmt::format("only {}", world_size)),
               .where = fmt::format("environment variable {}", launch.variable),
               .seen = fmt::format("{}={}, {} in the world", launch.variable, launch.ranks, world_size),
               .allowed = fmt::format("{} in the world: each rank alone would compute the whole run", launch.ranks),
               .next = has_mpi ? launch.remedy
                               : "this nibble was built without MPI: install it (launch/install), configure again with "
                                 "-DNIBBLE_MPI=ON and build"});
}

}  // namespace nibble
