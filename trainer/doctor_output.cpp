#include "trainer/doctor_output.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <set>

#include "trainer/datasheet_peaks.hpp"
#include "trainer/memory.hpp"
#include "trainer/version.hpp"

namespace nibble {
namespace {

std::string versions_line() {
  std::string line;
  for (const auto& [library, version] : versions())
    line += fmt::format("{}{} {}", line.empty() ? "" : ", ", library, version);
  return line;
}

/// What differs from rank to rank.
std::string ranks_text(const Diagnosis& diagnosis) {
  size_t widest = 4;
  for (const std::string& host : diagnosis.hosts) widest = std::max(widest, host.size());
  std::string text = fmt::format("{:>4}  {:<{}}  {:>8}  {:<12} {:>7}  {:<6}  {:>10}  {:>8}  {}\n", "rank", "host",
                                 widest, "process", "cores", "threads", "SIMD", "memory", "TFLOP/s", "GEMM");
  for (size_t rank = 0; rank < diagnosis.hosts.size(); ++rank) {
    const MachineFacts& machine = diagnosis.machines[rank];
    text +=
        fmt::format("{:>4}  {:<{}}  {:>8}  {:<12} {:>7}  {:<6}  {:>10}  {:>8.2f}  {}\n", rank, diagnosis.hosts[rank],
                    widest, machine.process, format_cores(machine.cores), machine.threads, machine.instruction_set,
                    format_bytes(machine.memory_available), diagnosis.gemm_peak[rank], diagnosis.gemm[rank]);
  }
  return text;
}

/// Once for each host, from its first rank.
std::string hosts_text(const Diagnosis& diagnosis) {
  std::string text;
  std::set<std::string> seen;
  for (size_t rank = 0; rank < diagnosis.hosts.size(); ++rank) {
    if (!seen.insert(diagnosis.hosts[rank]).second) continue;
    const MachineFacts& machine = diagnosis.machines[rank];
    text += fmt::format("{}: {}\n", diagnosis.hosts[rank], fmt::join(machine.interfaces, ", "));
    for (const auto& [variable, value] : machine.environment) text += fmt::format("  {}={}\n", variable, value);
  }
  return text;
}

/// Of the products that a datasheet has besides.
std::string other_peaks(const DatasheetPeaks& peaks) {
  return fmt::format(" (fp8 {:.0f}{})", peaks.fp8, peaks.fp4 > 0 ? fmt::format(", fp4 {:.0f}", peaks.fp4) : "");
}

std::string gpus_text(const Diagnosis& diagnosis) {
  std::string text;
  for (size_t rank = 0; rank < diagnosis.hosts.size(); ++rank)
    for (size_t number = 0; number < diagnosis.gpus[rank].size(); ++number) {
      const GpuFacts& gpu = diagnosis.gpus[rank][number];
      const std::optional<DatasheetPeaks> datasheet = datasheet_peaks(gpu.name);
      text += fmt::format(
          "{}: GPU {}: {}, sm_{}, {} processors, {} free of {}; bf16 {:.0f} TFLOP/s{}, copy {:.0f} GB/s{}\n",
          diagnosis.hosts[rank], number, gpu.name, gpu.architecture, gpu.processors, format_bytes(gpu.free),
          format_bytes(gpu.memory), gpu.peak,
          datasheet ? fmt::format(" of {:.0f} in the datasheet{}", datasheet->bf16, other_peaks(*datasheet)) : "",
          gpu.bandwidth, datasheet ? fmt::format(" of {:.0f}", datasheet->bandwidth) : "");
    }
  return text;
}

/// A row for each sender and a column for each receiver; the slowest link has a star.
std::string matrix_text(const Diagnosis& diagnosis, const std::string& title,
                        const std::function<std::string(const Link&)>& cell) {
  const size_t ranks = diagnosis.hosts.size(), star = slowest(diagnosis.links);
  std::vector<std::string> cells(ranks * ranks, "-");
  for (size_t i = 0; i < diagnosis.links.size(); ++i) {
    const Link& link = diagnosis.links[i];
    cells[static_cast<size_t>(link.from) * ranks + static_cast<size_t>(link.to)] = cell(link) + (i == star ? "*" : "");
  }
  std::string text = fmt::format("{}\n{:>9}", title, "from, to");
  for (size_t to = 0; to < ranks; ++to) text += fmt::format(" {:>9}", to);
  for (size_t from = 0; from < ranks; ++from) {
    text += fmt::format("\n{:>9}", from);
    for (size_t to = 0; to < ranks; ++to) text += fmt::format(" {:>9}", cells[from * ranks + to]);
  }
  return text + "\n";
}

std::string links_text(const Diagnosis& diagnosis) {
  const auto latency = [](const Link& link) { return fmt::format("{:.1f}", link.latency * 1e6); };
  const auto bandwidth = [](const Link& link) { return fmt::format("{:.1f}", link.bytes_per_second * 1e-6); };
  if (diagnosis.hosts.size() <= static_cast<size_t>(most_ranks_in_pairs))
    return matrix_text(diagnosis, "latency, microseconds; * the link with the least bandwidth", latency) + "\n" +
           matrix_text(diagnosis, "bandwidth of messages of 1 MiB, MB/s", bandwidth);
  std::string text = "a sample of the links: each rank with the next one and with the first; * the slowest\n";
  const size_t star = slowest(diagnosis.links);
  for (size_t i = 0; i < diagnosis.links.size(); ++i) {
    const Link& link = diagnosis.links[i];
    text += fmt::format("{:>5} to {:<5} {:>9} us {:>9} MB/s{}\n", link.from, link.to, latency(link), bandwidth(link),
                        i == star ? "*" : "");
  }
  return text;
}

std::string findings_text(const std::vector<Finding>& findings) {
  std::string text;
  for (const Finding& finding : findings) {
    text += fmt::format("{:<14} {:<8} {}\n", finding.check, name(finding.verdict), finding.found);
    if (!finding.next.empty()) text += fmt::format("{:<23} next: {}\n", "", finding.next);
  }
  return text;
}

}  // namespace

std::string diagnosis_text(const Diagnosis& diagnosis) {
  std::string text =
      versions_line() + "\n\n" + ranks_text(diagnosis) + "\n" + hosts_text(diagnosis) + gpus_text(diagnosis) + "\n";
  if (!diagnosis.links.empty()) text += links_text(diagnosis) + "\n";
  return text + findings_text(diagnosis.findings);
}

nlohmann::ordered_json diagnosis_json(const Diagnosis& diagnosis) {
  nlohmann::ordered_json json = {{"versions", nlohmann::ordered_json::object()},
                                 {"ranks", nlohmann::ordered_json::array()},
                                 {"links", nlohmann::ordered_json::array()},
                                 {"checks", nlohmann::ordered_json::array()}};
  for (const auto& [library, version] : versions()) json["versions"][library] = version;
  for (size_t rank = 0; rank < diagnosis.hosts.size(); ++rank)
    json["ranks"].push_back({{"rank", rank},
                             {"host", diagnosis.hosts[rank]},
                             {"machine", diagnosis.machines[rank]},
                             {"gemm", diagnosis.gemm[rank]},
                             {"gemm_peak_tflops", diagnosis.gemm_peak[rank]},
                             {"gpus", diagnosis.gpus[rank]}});
  for (const Link& link : diagnosis.links)
    json["links"].push_back({{"from", link.from},
                             {"to", link.to},
                             {"latency_seconds", link.latency},
                             {"bytes_per_second", link.bytes_per_second}});
  for (const Finding& finding : diagnosis.findings)
    json["checks"].push_back({{"check", finding.check},
                              {"verdict", name(finding.verdict)},
                              {"found", finding.found},
                              {"next", finding.next}});
  return json;
}

}  // namespace nibble
