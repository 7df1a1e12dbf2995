// What the environment says about who started the program.
#include "comm/launcher.hpp"

#include <gtest/gtest.h>

#include <map>

#include "tensor/error.hpp"

namespace nibble {
namespace {

Launch launch_of(const std::map<std::string, std::string>& variables) {
  return find_launch([&](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

void expect_refused(const Launch& launch, int world_size, bool has_mpi, const std::string& next) {
  try {
    require_all_ranks(launch, world_size, has_mpi);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::configuration);
    EXPECT_NE(error.detail().what.find(launch.launcher), std::string::npos) << error.what();
    EXPECT_NE(error.detail().next.find(next), std::string::npos) << error.what();
  }
}

TEST(Launcher, AProgramStartedByHandIsAloneAndNeedsNoMpi) {
  const Launch launch = launch_of({{"PATH", "/usr/bin"}});
  EXPECT_EQ(launch.launcher, "");
  EXPECT_EQ(launch.ranks, 1);
  EXPECT_FALSE(launch.mpi);
  EXPECT_NO_THROW(require_all_ranks(launch, 1, false));
}

TEST(Launcher, IsFoundByWhatItLeavesInTheEnvironment) {
  struct Case {
    std::map<std::string, std::string> variables;
    std::string launcher;
    int ranks;
    bool mpi;
  };
  const Case cases[] = {
      {{{"OMPI_COMM_WORLD_SIZE", "4"}, {"PMIX_RANK", "1"}}, "Open MPI's mpirun", 4, true},
      {{{"OMPI_COMM_WORLD_SIZE", "1"}}, "Open MPI's mpirun", 1, false},
      {{{"OMPI_COMM_WORLD_SIZE", "1"}, {"SLURM_NTASKS", "4"}}, "Open MPI's mpirun", 1, false},
      {{{"PMIX_RANK", "0"}, {"SLURM_NTASKS", "8"}}, "srun --mpi=pmix", 8, true},
      {{{"PMI_SIZE", "2"}, {"PMI_RANK", "0"}, {"SLURM_NTASKS", "2"}}, "srun --mpi=pmi2", 2, false},
      {{{"PMI_SIZE", "2"}, {"PMI_RANK", "0"}}, "mpiexec (PMI)", 2, true},
      {{{"SLURM_NTASKS", "8"}}, "Slurm", 8, false},
      {{{"PMIX_RANK", "0"}}, "PMIx", 1, true},
      {{{"WORLD_SIZE", "3"}, {"RANK", "0"}}, "torchrun", 3, false},
  };
  for (const Case& expected : cases) {
    const Launch launch = launch_of(expected.variables);
    EXPECT_EQ(launch.launcher, expected.launcher);
    EXPECT_EQ(launch.ranks, expected.ranks) << launch.launcher;
    EXPECT_EQ(launch.mpi, expected.mpi) << launch.launcher;
  }
}

TEST(Launcher, AWorldOfOneWhereMoreWereStartedIsRefusedWithTheRightCommand) {
  const Launch slurm = launch_of({{"SLURM_NTASKS", "4"}});
  expect_refused(slurm, 1, true, "srun --mpi=pmix nibble train run.yaml");
  expect_refused(launch_of({{"WORLD_SIZE", "4"}}), 1, true, "mpirun -np 4 nibble train run.yaml");
  expect_refused(launch_of({{"PMI_SIZE", "2"}}), 1, true, "mpirun -np 2");
  expect_refused(launch_of({{"OMPI_COMM_WORLD_SIZE", "2"}}), 1, true, "mpirun");
  expect_refused(launch_of({{"PMIX_RANK", "0"}, {"SLURM_NTASKS", "2"}}), 1, true, "launch/slurm.sbatch");
  expect_refused(launch_of({{"OMPI_COMM_WORLD_SIZE", "2"}}), 1, false, "built without MPI");
  EXPECT_NO_THROW(require_all_ranks(launch_of({{"OMPI_COMM_WORLD_SIZE", "2"}}), 2, true));
}

TEST(Launcher, ANumberOfRanksThatIsNoneIsRefused) {
  for (const char* text : {"abc", "", "0", "-1", "4x", "4(x2)", "99999999999"}) {
    try {
      launch_of({{"WORLD_SIZE", text}});
      ADD_FAILURE() << text << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::configuration);
      EXPECT_EQ(error.detail().seen, std::string("WORLD_SIZE=") + text);
    }
  }
}

}  // namespace
}  // namespace nibble
