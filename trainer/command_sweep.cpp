#include "trainer/command_sweep.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "comm/world.hpp"
#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "trainer/directory.hpp"
#include "trainer/interrupt.hpp"
#include "trainer/rank_agreement.hpp"
#include "trainer/sweep_cost.hpp"
#include "trainer/sweep_file.hpp"
#include "trainer/sweep_identity.hpp"
#include "trainer/sweep_ledger.hpp"
#include "trainer/sweep_output.hpp"
#include "trainer/sweep_plan.hpp"
#include "trainer/sweep_table.hpp"
#include "trainer/sweep_worker.hpp"

namespace nibble {
namespace {

struct Arguments {
  std::string file;
  bool status = false, dry_run = false, retune = false, json = false;
};

/// What the runs take, as this or an earlier process has found it out.
std::vector<double> foreseen_seconds(const SweepPlan& plan) {
  const std::filesystem::path path = plan.directory / "cost.json";
  if (!exists(path, ErrorKind::resource)) return {};
  std::vector<double> seconds;
  const nlohmann::json cost = nlohmann::json::parse(read_file(path, ErrorKind::resource), nullptr, false);
  if (!cost.is_object() || !cost.contains("runs") || !cost["runs"].is_array()) return {};
  for (const nlohmann::json& run : cost["runs"])
    if (run.is_object() && run.value("seconds", nlohmann::json()).is_number())
      seconds.push_back(run["seconds"].get<double>());
  return seconds.size() == plan.runs.size() ? seconds : std::vector<double>();
}

/// Throws unless the directory's sweep is this one, or it holds none.
void require_own_directory(const SweepPlan& plan, const std::optional<std::string>& agreed) {
  if (agreed) require_same_sweep(*agreed, sweep_identity(plan), plan.directory.string());
}

void print_status(const SweepPlan& plan, SweepLedger& ledger, bool json) {
  const SweepStatus status = status_of(plan, ledger, foreseen_seconds(plan));
  fmt::print("{}", json ? status_json(plan, status).dump(2) + "\n" : status_text(plan, status));
}

/// The first process says what all of it takes; later ones read that.
void announce(const SweepPlan& plan) {
  if (!foreseen_seconds(plan).empty()) {
    fmt::print(stderr, "sweep    {} runs in {}: what they take is in cost.json\n", plan.runs.size(),
               plan.directory.string());
    return;
  }
  const SweepCost cost = cost_of(plan);
  write_file_atomically(plan.directory / "cost.json", to_json(plan, cost).dump(2) + "\n");
  fmt::print(stderr, "{}", cost_text(plan, cost));
}

/// Writes the tables. Throws where runs have failed, with the first one's exit code.
void conclude(const SweepPlan& plan, SweepLedger& ledger, bool json) {
  std::vector<std::optional<LedgerEntry>> entries;
  for (const SweepTask& task : plan.tasks) entries.push_back(ledger.look(task.id));
  write_sweep_tables(plan, task_states(plan, entries, ledger));
  print_status(plan, ledger, json);
  if (!json) fmt::print("results: {}\n", (plan.directory / "sweep.csv").string());
  const LedgerEntry* first = nullptr;
  std::string failed;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (!entries[i] || entries[i]->kind != LedgerEntry::Kind::failed) continue;
    if (!first) first = &*entries[i];
    failed += (failed.empty() ? "" : ", ") + plan.tasks[i].id;
  }
  if (!first) return;
  throw Error({.kind = static_cast<ErrorKind>(first->exit_code),
               .what = "runs of the sweep have failed, each as often as it is tried",
               .where = plan.directory.string(),
               .seen = fmt::format("{}; the first: {}", failed, first->message),
               .next = "what has finished stays so; change what is wrong in a sweep of its own"});
}

StopWish run_sweep(World& world, const Arguments& arguments) {
  const SweepPlan plan = plan_sweep(read_sweep(arguments.file));
  require_same(world, ErrorKind::configuration, "the ranks have different sweeps", sweep_identity(plan),
               "give every rank the same file");
  SweepLedger ledger(plan.ledger());
  if (arguments.dry_run || arguments.status) {
    if (!world.is_first()) return StopWish::none;
    require_own_directory(plan, ledger.agreed());
    if (arguments.status) {
      print_status(plan, ledger, arguments.json);
      return StopWish::none;
    }
    const SweepCost cost = cost_of(plan);
    fmt::print("{}", arguments.json ? to_json(plan, cost).dump(2) + "\n" : cost_text(plan, cost));
    return StopWish::none;
  }
  if (world.is_first()) {
    require_own_directory(plan, ledger.agree_on(sweep_identity(plan)));
    announce(plan);
  }
  const StopWish wish = work_on(world, plan, ledger, arguments.retune);
  if (wish == StopWish::none && world.is_first()) conclude(plan, ledger, arguments.json);
  if (wish != StopWish::none && world.is_first())
    fmt::print(stderr, "interrupted and saved; to go on: the same command\n");
  return wish;
}

void run_command(const Arguments& arguments) {
  StopWish wish = StopWish::none;
  run_in_world([&](World& world) { wish = run_sweep(world, arguments); });
  if (wish == StopWish::interrupt) throw CLI::RuntimeError(exit_interrupted);
  if (wish == StopWish::requeue) throw CLI::RuntimeError(exit_requeue);
}

}  // namespace

void add_sweep_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("sweep", "Many runs that one file describes, pulled by any number of processes");
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("file", arguments->file, "base settings, axes, method")->required()->type_name("FILE.yaml");
  CLI::Option* status = command->add_flag("--status", arguments->status, "how far the sweep is; starts nothing");
  command->add_flag("--dry-run", arguments->dry_run, "what its runs take; starts nothing")->excludes(status);
  command->add_flag("--retune", arguments->retune,
                    "go on with runs although threads, instruction set or libraries differ from their checkpoints'");
  command->add_flag("--json", arguments->json, "one JSON object on standard output");
  command->callback([arguments] { run_command(*arguments); });
}

}  // namespace nibble
