// A save that is interrupted at every one of its file operations: the checkpoint before it loads, and the next save
// succeeds. Two ranks are played in one process.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <set>

#include "tensor/files.hpp"
#include "tests/tensor/temporary_directory.hpp"
#include "tests/trainer/checkpoint_header.hpp"
#include "tests/trainer/faults/file_faults.hpp"
#include "trainer/background_save.hpp"
#include "trainer/checkpoint_load.hpp"
#include "trainer/checkpoint_save.hpp"

// HDF5 loses memory of a file whose last write failed; the leak sanitizer asks this function of its own name.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }

namespace nibble {
namespace {

using test::checkpoint_header;

namespace fs = std::filesystem;
using faults::Fault;

constexpr int ranks = 2;

/// One rank's state, whose values tell the step.
struct State {
  State(int rank, int64_t at_step) : step(at_step) {
    for (int64_t i = 0; i < values.view().size(); ++i)
      values.view().as<float>()[i] = static_cast<float>(rank * 5000 + i + at_step);
    list.add_run("weights/sharded", values.view(), 2, 5000, rank * 5000);
    list.add("codes", codes.view());
    list.add_scalar("step", step);
  }
  State(const State&) = delete;

  OwnedTensor values{DType::f32, 1, 5000};
  OwnedTensor codes{DType::u8, 2, 6000};  // replicated, written by both
  int64_t step;
  StateList list;
};

void save(const fs::path& run, int64_t step, int64_t keep = 100) {
  const State first(0, step), second(1, step);
  begin_checkpoint(run, step, first.list);
  const fs::path folder = saving_path(run, step);
  const RankFile files[] = {write_rank_file(folder, 0, ranks, first.list),
                            write_rank_file(folder, 1, ranks, second.list)};
  commit_checkpoint(run, checkpoint_header(step, "model"), files);
  prune_checkpoints(run, keep, 0);
}

void save_in_background(const fs::path& run, int64_t step, int64_t keep) {
  State first(0, step), second(1, step);
  Stream stream(1);
  BackgroundSave first_save(first.list, 0, ranks), second_save(second.list, 1, ranks);
  begin_checkpoint(run, step, first.list);
  const fs::path folder = saving_path(run, step);
  first_save.start(stream, first.list, folder);
  second_save.start(stream, second.list, folder);
  first.step = second.step = -1;  // training goes on
  first.values.view().as<float>()[0] = -1;
  std::vector<RankFile> files = {first_save.take_file(), second_save.take_file()};
  first_save.commit([&] {
    commit_checkpoint(run, checkpoint_header(step, "model"), files);
    prune_checkpoints(run, keep, 0);
  });
  first_save.finish();
}

using Save = void (*)(const fs::path& run, int64_t step, int64_t keep);

/// How a save in a process of its own ended whose operation number `at` fails.
struct Ended {
  int code = -1;         ///< of an Error, 0: none, -1: killed
  bool reached = false;  ///< there were so many operations
};

Ended save_with_fault(Save save_it, const fs::path& run, int64_t step, Fault fault, int at) {
  const pid_t child = fork();
  if (child == 0) {
    int code = 0;
    faults::arm(run.string() + "/", fault, at);
    try {
      save_it(run, step, 2);  // removes an older one, too
    } catch (const Error& error) {
      const bool tells = !error.detail().what.empty() && !error.detail().where.empty() && !error.detail().seen.empty();
      code = tells ? error.exit_code() : 1;
      abandon_checkpoint(run, step);
    }
    constexpr int reached = 128;
    _exit(code | (faults::operations() >= at ? reached : 0));
  }
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) return {-1, true};
  EXPECT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  return {WEXITSTATUS(status) & 127, (WEXITSTATUS(status) & 128) != 0};
}

class SaveFaults : public TemporaryDirectoryTest {
 protected:
  void TearDown() override {
    faults::disarm();
    TemporaryDirectoryTest::TearDown();
  }
  void expect_loads(int64_t step) {
    const VerifiedCheckpoint checkpoint = open_checkpoint(checkpoint_path(directory_, step));
    for (int rank = 0; rank < ranks; ++rank) {
      State loaded(rank, -1), expected(rank, step);
      load_checkpoint(checkpoint, loaded.list);
      EXPECT_EQ(loaded.step, step);
      EXPECT_EQ(std::memcmp(loaded.values.view().data, expected.values.view().data, expected.values.view().bytes()), 0);
    }
  }
  int64_t newest() {
    std::vector<RefusedCheckpoint> refused;
    const std::optional<VerifiedCheckpoint> found = newest_valid_checkpoint(directory_, refused);
    EXPECT_TRUE(refused.empty()) << refused.front().path << ": " << refused.front().reason;
    return found ? found->header().step : -1;
  }

  /// Saves step 6 after 4 and 5, once for each of its operations, until there are no more of them.
  void fail_at_every_operation(Save save_it) {
    for (const Fault fault : {Fault::input_output_error, Fault::disk_full, Fault::short_write, Fault::kill}) {
      int at = 1, refused = 0, killed = 0;
      for (;; ++at) {
        for (const int64_t step : {4, 5})
          if (!fs::exists(checkpoint_path(directory_, step))) save(directory_, step);
        const Ended ended = save_with_fault(save_it, directory_, 6, fault, at);
        killed += ended.code == -1;
        refused += ended.code == static_cast<int>(ErrorKind::resource);
        // Old checkpoints that cannot be listed are an error of their kind.
        ASSERT_TRUE(ended.code <= 0 || ended.code == static_cast<int>(ErrorKind::resource) ||
                    ended.code == static_cast<int>(ErrorKind::checkpoint))
            << ended.code;
        const int64_t found = newest();
        ASSERT_TRUE(found == 5 || found == 6) << "operation " << at << ", newest " << found;
        ASSERT_TRUE(ended.code != 0 || found == 6) << "operation " << at;
        expect_loads(5);
        expect_loads(found);
        save(directory_, 7);
        expect_loads(7);
        ASSERT_EQ(newest(), 7);
        for (const std::string& name : names_in(directory_ / "checkpoints"))
          EXPECT_TRUE(parse_step_name(name)) << name << " was left behind";
        if (HasFailure()) FAIL() << "operation " << at << ", fault " << static_cast<int>(fault);
        for (const int64_t step : {6, 7}) fs::remove_all(checkpoint_path(directory_, step));
        if (!ended.reached) break;
      }
      EXPECT_GT(at, 40) << "so few operations cannot be a save";
      if (fault == Fault::kill) EXPECT_EQ(killed, at - 1);
      else EXPECT_GT(refused, fault == Fault::short_write ? 5 : at / 2);
    }
  }
};

TEST_F(SaveFaults, EveryOperationOfASaveMayFail) { fail_at_every_operation(save); }

TEST_F(SaveFaults, EveryOperationOfABackgroundSaveMayFail) { fail_at_every_operation(save_in_background); }

TEST_F(SaveFaults, ADiskThatIsFullForOneRankEndsTheSaveAndNothingElse) {
  save(directory_, 5);
  State first(0, 6), second(1, 6);
  Stream stream(1);
  BackgroundSave first_save(first.list, 0, ranks), second_save(second.list, 1, ranks);
  const fs::path folder = saving_path(directory_, 6);
  for (int at = 1; at < 30; ++at) {
    begin_checkpoint(directory_, 6, first.list);
    faults::arm(directory_.string() + "/", Fault::disk_full, at, "rank_0001.h5");
    first_save.start(stream, first.list, folder);
    second_save.start(stream, second.list, folder);
    EXPECT_EQ(first_save.take_file().file.name, "rank_0000.h5");
    ErrorDetail error;
    try {
      second_save.take_file();
    } catch (const Error& caught) {
      error = caught.detail();
    }
    const int operations = faults::operations();
    faults::disarm();
    abandon_checkpoint(directory_, 6);
    EXPECT_EQ(names_in(directory_ / "checkpoints"), std::vector<std::string>{"step_00000005"});
    expect_loads(5);
    if (error.what.empty()) {
      EXPECT_LT(operations, at + 10);
      EXPECT_GT(at, 5);
      break;
    }
    EXPECT_EQ(error.kind, ErrorKind::resource);
    EXPECT_NE(error.where.find("rank_0001.h5"), std::string::npos);
    EXPECT_EQ(error.seen, "No space left on device") << at;
  }
  save(directory_, 7);
  expect_loads(7);
}

}  // namespace
}  // namespace nibble
