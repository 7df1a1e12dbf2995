// Whole sweeps of tiny runs: killed, shared, interrupted, on a full disk, with runs that fail. What they come to is
// what an undisturbed one comes to, to the byte.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <random>
#include <thread>

#include "run_program.hpp"
#include "tensor/files.hpp"
#include "tests/trainer/small_run.hpp"
#include "trainer/directory.hpp"
#include "trainer/fit_points.hpp"
#include "trainer/sweep_file.hpp"
#include "trainer/sweep_ledger.hpp"
#include "trainer/sweep_plan.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class SweepTest : public test::SmallRunTest {
 protected:
  /// A sweep in DIRECTORY; what is said of the sweep comes before the base, what is said of runs is in it.
  std::string sweep(const std::string& name, const std::string& axes, const std::string& more = "",
                    const std::string& run = "", int steps = 24) const {
    const std::string file = path(name + ".yaml");
    write(file, "directory: " + path(name) + "\n" + more + "axes:\n" + axes +
                    "base:\n"
                    "  model: {width: 32, layers: 2, heads: 2, ffn: 64}\n"
                    "  data: {train: " +
                    path("train.h5") + ", validation: " + path("train.h5") +
                    ", sequence: 32}\n"
                    "  batch: {tokens: 128, micro: 2, lanes: 2}\n"
                    "  steps: " +
                    std::to_string(steps) +
                    "\n"
                    "  optimizer: {learning_rate: 1e-2}\n"
                    "  schedule: {name: wsd, warmup: 2, decay: 25%}\n"
                    "  validation: {every: 8, tokens: 128}\n"
                    "  run: {threads: 1, checkpoint: {every: 4, keep: 2}" +
                    run + "}\n");
    return file;
  }
  static const char* grid() { return "  precision.recipe: [bf16, mxfp4-rtn]\n  run.seed: [1, 2]\n"; }

  Ended run(const std::string& file, const std::string& options = "") const {
    return nibble("sweep '" + file + "' " + options);
  }
  pid_t start(const std::string& file) const {
    const std::string log = file + ".log";
    const pid_t child = fork();
    if (child == 0) {
      const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0666);
      dup2(out, 1);
      dup2(out, 2);
      execl(NIBBLE_BINARY, NIBBLE_BINARY, "sweep", file.c_str(), nullptr);
      _exit(127);
    }
    return child;
  }
  static int wait_for(pid_t child) {
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  std::string table(const std::string& name) const {
    return read_file(path(name) + "/runs.jsonl", ErrorKind::data) +
           read_file(path(name) + "/sweep.csv", ErrorKind::data);
  }
  std::vector<json> results(const std::string& name) const {
    std::vector<json> found;
    std::ifstream file(path(name) + "/runs.jsonl");
    for (std::string line; std::getline(file, line);) found.push_back(json::parse(line));
    return found;
  }
  /// Kinds of entries in all logs: "claimed" 4, "finished" 4 ...
  std::map<std::string, int> entries(const std::string& name) const {
    std::map<std::string, int> counts;
    for (const fs::path& file : fs::recursive_directory_iterator(path(name) + "/ledger"))
      if (file.filename().string().size() == 8 && fs::is_regular_file(file))
        ++counts[json::parse(read_file(file, ErrorKind::data))["kind"]];
    return counts;
  }
  /// Of all kinds, as far as they are there.
  int entries_of(const std::string& name) const {
    int count = 0;
    if (!fs::exists(path(name) + "/ledger")) return 0;
    for (const auto& [kind, number] : entries(name)) count += number;
    return count;
  }
  static void sleep(int milliseconds) { std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds)); }
};

TEST_F(SweepTest, KilledTwentyTimesItComesToTheSame) {
  ASSERT_EQ(run(sweep("whole", grid())).code, 0);
  const std::string killed = sweep("killed", grid());
  std::mt19937 random(std::random_device{}());
  int kills = 0;
  for (int started = 0; kills < 20 && started < 60; ++started) {
    const pid_t child = start(killed);
    // Half of them in the midst of work, the others anywhere from the start on.
    const int before = entries_of("killed");
    for (int i = 0; i < 300 && started % 2 == 0 && entries_of("killed") == before; ++i) sleep(10);
    sleep(static_cast<int>(random() % 300));
    if (kill(child, SIGKILL) == 0 && wait_for(child) == -SIGKILL) ++kills;
    // When all has finished, what is left of the kills falls on a sweep that begins anew.
    if (fs::exists(path("killed") + "/runs.jsonl")) {
      EXPECT_EQ(table("killed"), table("whole"));
      fs::remove_all(path("killed"));
    }
  }
  EXPECT_EQ(kills, 20);
  const Ended last = run(killed);
  EXPECT_EQ(last.code, 0) << last.output;
  EXPECT_EQ(table("killed"), table("whole"));
  EXPECT_EQ(entries("killed")["finished"], 4);
  const std::vector<json> rows = results("whole");
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[2]["run_id"], "mxfp4-rtn_seed1");
  EXPECT_GT(rows[2]["final_val_loss_nats"], 0.0);
  EXPECT_EQ(rows[2]["val_curve"].size(), 4u);  // steps 0, 8, 16, 24
  EXPECT_EQ(rows[2]["D_tokens"], 24 * 128);
  const fs::path folder = path("whole"), lines = folder / "runs.jsonl";
  FitPoints of_runs = read_fit_points({&folder, 1}), of_lines = read_fit_points({&lines, 1});
  for (FitPoints* points : {&of_runs, &of_lines}) std::ranges::sort(points->points, {}, &FitPoint::run);
  EXPECT_EQ(of_lines.points, of_runs.points);
  EXPECT_EQ(of_lines.other_columns.size(), 0u);
}

TEST_F(SweepTest, TwoProcessesShareItAndDoNothingTwice) {
  ASSERT_EQ(run(sweep("alone", grid())).code, 0);
  const std::string shared = sweep("shared", grid());
  const pid_t one = start(shared), other = start(shared);
  EXPECT_EQ(wait_for(one), 0) << read_file(shared + ".log", ErrorKind::data);
  EXPECT_EQ(wait_for(other), 0) << read_file(shared + ".log", ErrorKind::data);
  EXPECT_EQ(table("shared"), table("alone"));
  const std::map<std::string, int> found = entries("shared");
  EXPECT_EQ(found.at("claimed"), 4);
  EXPECT_EQ(found.at("finished"), 4);
  EXPECT_EQ(found.size(), 3u);  // and renewed
  const Ended again = run(shared);
  EXPECT_EQ(again.code, 0);
  EXPECT_EQ(entries("shared"), found);
}

TEST_F(SweepTest, ASignalSavesAndGivesTheRunBack) {
  ASSERT_EQ(run(sweep("whole", "  run.seed: [1]\n", "", "", 150)).code, 0);
  const std::string file = sweep("stopped", "  run.seed: [1]\n", "", "", 150);
  for (const auto& [signal, code] : {std::pair{SIGTERM, exit_interrupted}, std::pair{SIGUSR1, exit_requeue}}) {
    const pid_t child = start(file);
    const int before = entries_of("stopped");
    for (int i = 0; i < 1000 && entries_of("stopped") < before + 6; ++i) sleep(10);  // in the midst of its steps
    kill(child, signal);
    EXPECT_EQ(wait_for(child), code);
    SweepLedger ledger(path("stopped") + "/ledger");
    ASSERT_TRUE(ledger.look("seed1"));
    EXPECT_EQ(ledger.look("seed1")->kind, LedgerEntry::Kind::released);
    const Ended status = run(file, "--status --json");
    EXPECT_EQ(json::parse(status.output)["runs"][0]["state"], "paused");
    EXPECT_GT(json::parse(status.output)["runs"][0]["step"], 0);
  }
  EXPECT_EQ(run(file).code, 0);
  EXPECT_EQ(table("stopped"), table("whole"));
}

TEST_F(SweepTest, WhatFailsIsTriedOnceMoreAndTheRestGoesOn) {
  const std::string file = sweep("failing", "  optimizer.learning_rate: [1e30, 1e-2]\n", "", ", max_refused: 2");
  const Ended ended = run(file);
  EXPECT_EQ(ended.code, static_cast<int>(ErrorKind::numerics)) << ended.output;
  expect_said(ended, "lr1e30 failed, try 1");
  expect_said(ended, "lr1e30 failed, try 2");
  expect_said(ended, "runs of the sweep have failed");
  EXPECT_EQ(results("failing").size(), 1u);
  const json status = json::parse(run(file, "--status --json").output);
  EXPECT_EQ(status["runs"][0]["state"], "failed");
  EXPECT_NE(status["runs"][0]["message"].get<std::string>().find("diverged"), std::string::npos);
  EXPECT_EQ(status["runs"][1]["state"], "finished");
  EXPECT_EQ(run(file).code, static_cast<int>(ErrorKind::numerics));
}

TEST_F(SweepTest, AFullDiskEndsItWithAMessageAndLosesNothing) {
  ASSERT_EQ(run(sweep("whole", "  run.seed: [1, 2]\n")).code, 0);
  const std::string file = sweep("full", "  run.seed: [1, 2]\n");
  for (const rlim_t bytes : {rlim_t{0}, rlim_t{30'000}}) {
    rlimit before{};
    getrlimit(RLIMIT_FSIZE, &before);
    const rlimit limit{.rlim_cur = bytes, .rlim_max = before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
    const Ended full = run(file);
    setrlimit(RLIMIT_FSIZE, &before);
    EXPECT_EQ(full.code, static_cast<int>(ErrorKind::resource)) << full.output;
    expect_said(full, path("full"));
    expect_said(full, "next:");
  }
  const std::map<std::string, int> left = entries("full");
  EXPECT_FALSE(left.contains("failed"));
  EXPECT_EQ(left.at("claimed"), left.at("released"));
  EXPECT_EQ(run(file).code, 0);
  EXPECT_EQ(table("full"), table("whole"));
}

TEST_F(SweepTest, AnotherSweepsDirectoryIsRefused) {
  ASSERT_EQ(run(sweep("one", "  run.seed: [1]\n", "", "", 4)).code, 0);
  const Ended other = run(sweep("one", "  run.seed: [1, 2]\n", "", "", 5));
  EXPECT_EQ(other.code, static_cast<int>(ErrorKind::configuration));
  expect_said(other, "holds another sweep");
  expect_said(other, "steps: 4 before, 5 now");
  EXPECT_EQ(run(sweep("one", "  run.sed: [1]\n")).code, static_cast<int>(ErrorKind::configuration));
}

TEST_F(SweepTest, BranchesOfATrunkAreTheRunsThatTheyStandFor) {
  const std::string axes = "  steps: [12, 24]\n  precision.recipe: [mxfp4-rtn]\n";
  ASSERT_EQ(run(sweep("alone", axes, "twin: bf16\n")).code, 0);
  const Ended ended = run(sweep("branched", axes, "twin: bf16\ntrunk: true\n"));
  ASSERT_EQ(ended.code, 0) << ended.output;
  const std::vector<json> alone = results("alone"), branched = results("branched");
  ASSERT_EQ(alone.size(), 4u);
  ASSERT_EQ(branched.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(branched[i]["run_id"], alone[i]["run_id"]);
    EXPECT_EQ(branched[i]["final_val_loss_nats"], alone[i]["final_val_loss_nats"]) << i;
    EXPECT_EQ(branched[i]["first_step"], i % 2 == 0 ? 9 : 18);
  }
  EXPECT_EQ(branched[0]["twin"], "steps12_bf16");
  EXPECT_EQ(branched[0]["gap_to_twin"].get<double>(),
            branched[0]["final_val_loss_nats"].get<double>() - branched[2]["final_val_loss_nats"].get<double>());
  EXPECT_TRUE(fs::exists(path("branched") + "/trunks/run/checkpoints/step_00000009/manifest.json"));
  const Ended report = nibble("report '" + path("branched") + "'");
  EXPECT_EQ(report.code, 0) << report.output;
  EXPECT_NE(read_file(path("branched") + "/report.html", ErrorKind::data).find("Gap to bf16"), std::string::npos);
}

TEST_F(SweepTest, HalvingKeepsTheBetterHalfAndTheOthersCheckpoints) {
  const Ended ended = run(
      sweep("halved", "  optimizer.learning_rate: [1e-5, 1e-2, 2e-5, 5e-3]\n", "method: halving\nrungs: [6, 50%]\n"));
  ASSERT_EQ(ended.code, 0) << ended.output;
  ASSERT_EQ(results("halved").size(), 1u);
  const std::string csv = read_file(path("halved") + "/sweep.csv", ErrorKind::data);
  EXPECT_NE(csv.find("lr1e-5,run,stopped"), std::string::npos) << csv;
  EXPECT_NE(csv.find("lr2e-5,run,stopped"), std::string::npos) << csv;
  EXPECT_TRUE(fs::exists(path("halved") + "/lr1e-5/checkpoints/step_00000006/manifest.json"));
  int at_twelve = 0;
  for (const char* name : {"/lr1e-2", "/lr5e-3"})
    at_twelve += fs::exists(path("halved") + name + "/checkpoints/step_00000024/manifest.json");
  EXPECT_EQ(at_twelve, 1);
  // It stops where it was compared, and is as good as the run that nobody stopped.
  ASSERT_EQ(run(sweep("whole", "  optimizer.learning_rate: [1e-2, 5e-3]\n")).code, 0);
  const json winner = results("halved").front();
  for (const json& row : results("whole"))
    if (row["run_id"] == winner["run_id"]) {
      EXPECT_EQ(row["final_val_loss_nats"], winner["final_val_loss_nats"]);
    }
}

TEST_F(SweepTest, WhatItTakesIsSaidBeforehandAndNothingIsWritten) {
  const std::string file = sweep("dry", grid());
  const Ended dry = run(file, "--dry-run --json");
  EXPECT_EQ(dry.code, 0) << dry.output;
  const json cost = json::parse(dry.output);
  ASSERT_EQ(cost["runs"].size(), 4u);
  EXPECT_EQ(cost["runs"][0]["tokens"], 24 * 128.0);
  EXPECT_GT(cost["runs"][3]["seconds"], 0.0);
  EXPECT_GT(cost["runs"][3]["memory_bytes"], 1e5);
  EXPECT_EQ(cost["operations"], 4 * cost["runs"][0]["operations"].get<double>());
  EXPECT_EQ(run(file, "--status").code, 0);
  EXPECT_FALSE(fs::exists(path("dry")));
}

}  // namespace
}  // namespace nibble
