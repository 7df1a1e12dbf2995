#include "trainer/doctor.hpp"

#include <fmt/format.h>

#include <set>

#include "data/token_data.hpp"
#include "quant/self_test.hpp"
#include "tensor/gemm.hpp"
#include "trainer/gemm_check.hpp"
#include "trainer/precision.hpp"
#include "trainer/rank_agreement.hpp"
#include "trainer/run_parts.hpp"
#include "trainer/run_stream.hpp"
#include "trainer/settings_output.hpp"

namespace nibble {
namespace {

/// What one rank tells the others.
struct Told {
  MachineFacts machine;
  std::string gemm;
  int64_t wrong = 0;
  double peak = 0;
  std::string unsound;  ///< what the self-test of the quantizers found first
  std::vector<GpuFacts> gpus{};
};

std::vector<Told> tell(World& world, const Told& mine) {
  const nlohmann::ordered_json json = {{"machine", mine.machine}, {"gemm", mine.gemm},       {"wrong", mine.wrong},
                                       {"peak", mine.peak},       {"unsound", mine.unsound}, {"gpus", mine.gpus}};
  std::vector<Told> all;
  for (const std::string& text : gather_all(world, json.dump())) {
    const auto rank = nlohmann::ordered_json::parse(text);
    all.push_back({rank.at("machine").get<MachineFacts>(), rank.at("gemm").get<std::string>(),
                   rank.at("wrong").get<int64_t>(), rank.at("peak").get<double>(),
                   rank.at("unsound").get<std::string>(), rank.at("gpus").get<std::vector<GpuFacts>>()});
  }
  return all;
}

std::vector<Recipe> used_recipes(const Settings* settings) {
  return settings ? recipes_of(settings->precision) : recipes();
}

/// Of the self-test of what the run's recipes use, or without a run of what all recipes use; empty: all is well.
/// Rotations of full width are left to the run, which knows its widths.
std::string unsound_quantizer(Stream& stream, const Settings* settings) {
  const std::vector<SelfTestFailure> failures = self_test(stream, used_recipes(settings), {});
  if (failures.empty()) return "";
  const SelfTestFailure& first = failures.front();
  return fmt::format("{}: {}: {} (allowed: {})", first.what, first.property, first.seen, first.allowed);
}

/// Whether all ranks have the same text.
Finding compare(World& world, const std::string& check, ErrorKind kind, const std::string& text, std::string found,
                const std::string& next) {
  try {
    require_same(world, kind, "ranks differ", text, next);
  } catch (const Error& error) {
    const ErrorDetail& detail = error.detail();
    if (detail.kind != kind) throw;  // the ranks cannot even talk
    return {.check = check,
            .verdict = Verdict::failed,
            .found = fmt::format("{}: {}; {}", detail.where, detail.seen, detail.allowed),
            .next = next,
            .who = kind};
  }
  return {.check = check, .found = std::move(found)};
}

/// What the ranks' files hold, or why a file cannot be read.
Finding compare_data(World& world, const Settings& settings) {
  std::string identity, trouble;
  try {
    if (settings.data.is_synthetic()) identity = RunData(settings).identity().dump();
    for (const std::string& path : {settings.data.train, settings.data.validation})
      if (!path.empty()) identity += path + " " + identity_of(TokenData::open(path)).dump() + "\n";
  } catch (const Error& error) {
    trouble = fmt::format("{}: {}", error.detail().where, error.detail().what);
  }
  Finding finding =
      compare(world, "data", ErrorKind::data, identity + trouble,
              settings.data.is_synthetic() ? "a synthetic language: no files" : "the same token files on all ranks",
              "copy the same files to every host, or put them on a file system that all share");
  if (finding.verdict == Verdict::ok && !trouble.empty())
    finding = {.check = "data",
               .verdict = Verdict::failed,
               .found = trouble,
               .next = "make the token files with nibble tokenize, or correct data.train and data.validation",
               .who = ErrorKind::data};
  return finding;
}

}  // namespace

const char* name(Verdict verdict) {
  return verdict == Verdict::ok ? "ok" : verdict == Verdict::warning ? "warning" : "FAILED";
}

Diagnosis diagnose(World& world, const Settings* settings) {
  Stream stream(settings ? static_cast<int>(settings->run.threads) : 0);
  const DType operands = settings ? operands_of(*settings) : DType::bf16;
  const std::string directory = settings ? settings->run.directory : "";
  world.at(0, "doctor: products");
  Told mine{.machine = machine_facts(stream, directory),
            .gemm = gemm_library(stream, operands),
            .wrong = wrong_elements(stream, DType::f32) + wrong_elements(stream, DType::bf16),
            .peak = 0,
            .unsound = unsound_quantizer(stream, settings)};
  if (world.local_rank() == 0) mine.gpus = examine_gpus(used_recipes(settings));
  gather_all(world, "");  // all ranks multiply at the same time, as in a run
  mine.peak = measure_gemm_peak(stream, operands);

  Diagnosis diagnosis{
      .hosts = world.hosts(), .machines = {}, .gemm = {}, .gemm_peak = {}, .gpus = {}, .links = {}, .findings = {}};
  std::vector<int64_t> wrong;
  std::vector<std::string> unsound;
  for (const Told& told : tell(world, mine)) {
    diagnosis.machines.push_back(told.machine);
    diagnosis.gemm.push_back(told.gemm);
    diagnosis.gemm_peak.push_back(told.peak);
    diagnosis.gpus.push_back(told.gpus);
    wrong.push_back(told.wrong);
    unsound.push_back(told.unsound);
  }
  world.at(0, "doctor: links");
  diagnosis.links = measure_links(world, pairs_to_measure(world.size()));

  std::vector<Finding>& findings = diagnosis.findings;
  const std::set<std::string> hosts(diagnosis.hosts.begin(), diagnosis.hosts.end());
  findings.push_back({.check = "executable",
                      .found = fmt::format("ranks: {}, hosts: {}; all run the same file", world.size(), hosts.size())});
  if (settings) {
    findings.push_back(compare(world, "configuration", ErrorKind::configuration, settings_yaml(*settings),
                               "the same on all ranks", "give every rank the same file and the same --set"));
    findings.push_back(compare_data(world, *settings));
  }
  findings.push_back(compare(world, "rounding", ErrorKind::configuration, tuning_of(stream, world).dump(1),
                             "the same threads, instruction set and GEMM on all ranks",
                             "set run.threads, and NIBBLE_ISA=avx2 where processors differ"));
  findings.push_back(judge_cores(diagnosis.hosts, diagnosis.machines));
  findings.push_back(judge_environment(diagnosis.machines));
  findings.push_back(judge_disk(diagnosis.hosts, diagnosis.machines));
  findings.push_back(judge_network(diagnosis.hosts, diagnosis.machines));
  findings.push_back(judge_links(diagnosis.links));
  findings.push_back(judge_products(wrong));
  findings.push_back(judge_quantizers(unsound));
  findings.push_back(judge_peaks(diagnosis.gemm_peak));
  findings.push_back(judge_gpus(diagnosis.hosts, diagnosis.gpus, settings && on_gpu(*settings)));
  return diagnosis;
}

int exit_code(const Diagnosis& diagnosis) {
  for (const Finding& finding : diagnosis.findings)
    if (finding.verdict == Verdict::failed) return static_cast<int>(finding.who);
  return 0;
}

}  // namespace nibble
