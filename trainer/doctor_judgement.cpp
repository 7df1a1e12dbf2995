// What all ranks told, judged.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <set>

#include "trainer/doctor.hpp"
#include "trainer/memory.hpp"

namespace nibble {
namespace {

/// Below this share of what most reach a rank or a link is called slow: clocks and other work explain less than that.
constexpr double slow_share = 0.6;

/// Less could hardly hold the checkpoints of a model that is worth many steps.
constexpr uint64_t little_disk = uint64_t{1} << 30;

double median(std::vector<double> values) {
  std::ranges::nth_element(values, values.begin() + std::ssize(values) / 2);
  return values[values.size() / 2];
}

std::map<std::string, std::vector<size_t>> ranks_by_host(const std::vector<std::string>& hosts) {
  std::map<std::string, std::vector<size_t>> ranks;
  for (size_t rank = 0; rank < hosts.size(); ++rank) ranks[hosts[rank]].push_back(rank);
  return ranks;
}

/// The networks of a host, without the one to itself and without addresses of one link.
std::set<std::string> networks(const MachineFacts& machine) {
  std::set<std::string> names;
  for (const std::string& interface : machine.interfaces) {
    const size_t space = interface.find(' ');
    const std::string address = interface.substr(space + 1);
    if (!address.starts_with("127.") && address != "::1" && !address.starts_with("fe80:"))
      names.insert(interface.substr(0, space));
  }
  return names;
}

}  // namespace

Finding judge_cores(const std::vector<std::string>& hosts, const std::vector<MachineFacts>& machines) {
  Finding finding{.check = "cores", .found = "enough for all threads"};
  for (const auto& [host, ranks] : ranks_by_host(hosts)) {
    std::set<int> cores;
    size_t threads = 0;
    for (const size_t rank : ranks) {
      cores.insert(machines[rank].cores.begin(), machines[rank].cores.end());
      threads += static_cast<size_t>(machines[rank].threads);
    }
    const auto all = static_cast<size_t>(machines[ranks.front()].host_cores);
    const size_t each = std::max<size_t>(1, all / ranks.size());
    if (threads > cores.size()) {
      finding.found = fmt::format("{}: {} ranks with {} threads together share {} cores", host, ranks.size(), threads,
                                  cores.size());
      finding.next = cores.size() < all && ranks.size() > 1
                         ? fmt::format("mpirun --map-by slot:PE={} --bind-to core, or launch/mpirun", each)
                         : fmt::format("--set run.threads={}", std::max<size_t>(1, cores.size() / ranks.size()));
    } else if (ranks.size() > 1 && cores.size() < all) {
      finding.found = fmt::format("{}: the ranks may use {} of {} cores", host, cores.size(), all);
      finding.next = fmt::format("mpirun --map-by slot:PE={} --bind-to core, or --bind-to none", each);
    } else {
      continue;
    }
    finding.verdict = Verdict::warning;
    return finding;
  }
  return finding;
}

Finding judge_network(const std::vector<std::string>& hosts, const std::vector<MachineFacts>& machines) {
  const auto by_host = ranks_by_host(hosts);
  if (by_host.size() == 1) return {.check = "network", .found = "all ranks are on one host; MPI needs none"};
  const std::map<std::string, std::string>& environment = machines.front().environment;
  for (const char* variable : {"OMPI_MCA_btl_tcp_if_include", "OMPI_MCA_btl_tcp_if_exclude"})
    if (const auto set = environment.find(variable); set != environment.end())
      return {.check = "network", .found = fmt::format("{}={}", set->first, set->second)};
  for (const auto& [host, ranks] : by_host) {
    const std::set<std::string> names = networks(machines[ranks.front()]);
    if (names.size() > 1)
      return {.check = "network",
              .verdict = Verdict::warning,
              .found = fmt::format("{} has {}; MPI was not told which to use", host, fmt::join(names, ", ")),
              .next = fmt::format("mpirun --mca btl_tcp_if_include {}", *names.begin())};
  }
  return {.check = "network", .found = "each host has one, which MPI must take"};
}

Finding judge_environment(const std::vector<MachineFacts>& machines) {
  for (size_t rank = 1; rank < machines.size(); ++rank) {
    std::set<std::string> names;
    for (const MachineFacts& machine : {machines.front(), machines[rank]})
      for (const auto& [variable, value] : machine.environment) names.insert(variable);
    for (const std::string& variable : names) {
      const auto value_on = [&](size_t r) {
        const auto found = machines[r].environment.find(variable);
        return found == machines[r].environment.end() ? std::string("not set") : found->second;
      };
      if (value_on(0) != value_on(rank))
        return {.check = "environment",
                .verdict = Verdict::warning,
                .found = fmt::format("{}: {} on rank 0, {} on rank {}", variable, value_on(0), value_on(rank), rank),
                .next = fmt::format("mpirun -x {}", variable)};
    }
  }
  return {.check = "environment",
          .found = fmt::format("{} variables of OpenMP, MPI and Nibble, the same on all ranks",
                               machines.front().environment.size())};
}

Finding judge_disk(const std::vector<std::string>& hosts, const std::vector<MachineFacts>& machines) {
  size_t least = 0;
  for (size_t rank = 0; rank < machines.size(); ++rank) {
    if (!machines[rank].disk_trouble.empty())
      return {.check = "disk",
              .verdict = Verdict::failed,
              .found = fmt::format("rank {} on {}: {}", rank, hosts[rank], machines[rank].disk_trouble),
              .next = "choose a run.directory that every rank can write",
              .who = ErrorKind::resource};
    if (machines[rank].disk_free < machines[least].disk_free) least = rank;
  }
  Finding finding{
      .check = "disk",
      .found = fmt::format("{} free for run.directory on {}", format_bytes(machines[least].disk_free), hosts[least])};
  if (machines[least].disk_free < little_disk) {
    finding.verdict = Verdict::warning;
    finding.next = "make room; a checkpoint takes 12 bytes a parameter";
  }
  return finding;
}

size_t slowest(const std::vector<Link>& links) {
  return static_cast<size_t>(std::ranges::min_element(links, {}, &Link::bytes_per_second) - links.begin());
}

Finding judge_links(const std::vector<Link>& links) {
  if (links.empty()) return {.check = "links", .found = "one rank has none"};
  std::vector<double> rates;
  for (const Link& link : links) rates.push_back(link.bytes_per_second);
  const Link& least = links[slowest(links)];
  const double most_reach = median(rates);
  Finding finding{
      .check = "links",
      .found = fmt::format("slowest: rank {} to {}, {:.1f} MB/s, {:.0f} us; median {:.1f} MB/s", least.from, least.to,
                           least.bytes_per_second * 1e-6, least.latency * 1e6, most_reach * 1e-6)};
  if (least.bytes_per_second < slow_share * most_reach) {
    finding.verdict = Verdict::warning;
    finding.next = "see what is between these two: cable, switch, another job";
  }
  return finding;
}

Finding judge_products(const std::vector<int64_t>& wrong) {
  for (size_t rank = 0; rank < wrong.size(); ++rank)
    if (wrong[rank] > 0)
      return {.check = "GEMM answer",
              .verdict = Verdict::failed,
              .found = fmt::format("rank {}: {} elements are wrong", rank, wrong[rank]),
              .next =
                  "try NIBBLE_ISA=avx2 and NIBBLE_GEMM=onednn there; if that is right, report a defect, else "
                  "suspect the machine",
              .who = ErrorKind::internal};
  return {.check = "GEMM answer", .found = "products of whole numbers are exact in fp32 and bf16 on every rank"};
}

Finding judge_quantizers(const std::vector<std::string>& unsound) {
  for (size_t rank = 0; rank < unsound.size(); ++rank)
    if (!unsound[rank].empty())
      return {.check = "quantizers",
              .verdict = Verdict::failed,
              .found = fmt::format("rank {}: {}", rank, unsound[rank]),
              .next = "try NIBBLE_ISA=avx2 there, and report a defect",
              .who = ErrorKind::numerics};
  return {.check = "quantizers", .found = "codes, blocks and biases are as they should be on every rank"};
}

Finding judge_gpus(const std::vector<std::string>& hosts, const std::vector<std::vector<GpuFacts>>& gpus, bool wanted) {
  Finding finding{.check = "GPUs", .found = "none", .who = ErrorKind::resource};
  std::set<std::string> names;
  size_t count = 0;
  for (size_t rank = 0; rank < hosts.size(); ++rank)
    for (size_t number = 0; number < gpus[rank].size(); ++number, ++count) {
      const GpuFacts& gpu = gpus[rank][number];
      names.insert(gpu.name);
      const std::string trouble = !gpu.trouble.empty()   ? gpu.trouble
                                  : gpu.wrong > 0        ? fmt::format("{} elements of products are wrong", gpu.wrong)
                                  : !gpu.unsound.empty() ? fmt::format("codes are not the processor's: {}", gpu.unsound)
                                                         : "";
      if (trouble.empty() || finding.verdict == Verdict::failed) continue;
      finding.verdict = Verdict::failed;
      finding.found = fmt::format("{}, GPU {}: {}", hosts[rank], number, trouble);
      finding.next = "look at the driver's log (dmesg) and at nvidia-smi, or leave it out with CUDA_VISIBLE_DEVICES";
    }
  if (finding.verdict == Verdict::failed) return finding;
  if (names.size() > 1) {
    finding.verdict = Verdict::warning;
    finding.found = fmt::format("not alike: {}", fmt::join(names, ", "));
    finding.next = "ranks on GPUs of one kind give the same numbers; choose them with CUDA_VISIBLE_DEVICES";
  } else if (count > 0) {
    finding.found = fmt::format("{} x {}: products and codes are right", count, *names.begin());
  } else if (wanted) {
    finding.verdict = Verdict::failed;
    finding.found = "run.device is cuda, and there is no GPU that this program can use";
    finding.next = "set run.device=cpu, or see what nvidia-smi says; the program must be built with the CUDA Toolkit";
  }
  return finding;
}

Finding judge_peaks(const std::vector<double>& peaks) {
  const double most_reach = median(peaks);
  const auto least = std::ranges::min_element(peaks);
  Finding finding{.check = "GEMM speed",
                  .found = fmt::format("slowest: rank {}, {:.2f} TFLOP/s; median {:.2f}", least - peaks.begin(), *least,
                                       most_reach)};
  if (*least < slow_share * most_reach) {
    finding.verdict = Verdict::warning;
    finding.next = "see what else runs on its host, and whether its clock is low; all ranks wait for it";
  }
  return finding;
}

}  // namespace nibble
