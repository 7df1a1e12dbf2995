#include "trainer/machine_facts.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <string_view>

#include "trainer/memory.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

std::vector<int> allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  return cores;
}

std::vector<std::string> interfaces_up() {
  std::vector<std::string> found;
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return found;
  for (const ifaddrs* one = first; one; one = one->ifa_next) {
    if (!one->ifa_addr || !(one->ifa_flags & IFF_UP)) continue;
    const int family = one->ifa_addr->sa_family;
    std::array<char, INET6_ADDRSTRLEN> text{};
    const void* address =
        family == AF_INET ? static_cast<const void*>(&reinterpret_cast<const sockaddr_in*>(one->ifa_addr)->sin_addr)
        : family == AF_INET6
            ? static_cast<const void*>(&reinterpret_cast<const sockaddr_in6*>(one->ifa_addr)->sin6_addr)
            : nullptr;
    if (address && inet_ntop(family, address, text.data(), text.size()))
      found.push_back(fmt::format("{} {}", one->ifa_name, text.data()));
  }
  freeifaddrs(first);
  return found;
}

/// Not what mpirun tells its ranks through the same variables.
std::map<std::string, std::string> relevant_environment() {
  constexpr std::string_view wanted[] = {"OMP_", "GOMP_", "OMPI_MCA_", "NIBBLE_", "ONEDNN_", "DNNL_", "OPENBLAS_"};
  constexpr std::string_view internal[] = {"OMPI_MCA_orte",         "OMPI_MCA_ess",   "OMPI_MCA_pmix",
                                           "OMPI_MCA_initial_wdir", "OMPI_MCA_shmem", "OMPI_MCA_mpi_oversubscribe"};
  std::map<std::string, std::string> variables;
  for (char** entry = environ; *entry; ++entry) {
    const std::string_view text = *entry;
    const auto begins = [&](std::string_view prefix) { return text.starts_with(prefix); };
    const size_t equals = text.find('=');
    if (equals == std::string_view::npos || std::ranges::none_of(wanted, begins) ||
        std::ranges::any_of(internal, begins))
      continue;
    variables[std::string(text.substr(0, equals))] = text.substr(equals + 1);
  }
  return variables;
}

/// Of the folder, or of the nearest above it that is there.
void ask_disk(const std::string& folder, MachineFacts& facts) {
  std::error_code failure;
  fs::path there = fs::absolute(folder.empty() ? "." : folder, failure);
  while (!failure && !fs::exists(there, failure) && there.has_relative_path()) there = there.parent_path();
  const fs::space_info space = fs::space(there, failure);
  if (failure) facts.disk_trouble = fmt::format("{}: {}", there.string(), failure.message());
  else if (access(there.c_str(), W_OK) != 0) facts.disk_trouble = there.string() + ": nothing may be written there";
  else facts.disk_free = space.available;
}

}  // namespace

MachineFacts machine_facts(const Stream& stream, const std::string& run_directory) {
  const AvailableMemory memory = available_memory();
  MachineFacts facts{.process = getpid(),
                     .cores = allowed_cores(),
                     .host_cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)),
                     .threads = stream.threads(),
                     .instruction_set = name(stream.isa()),
                     .memory_available = memory.bytes,
                     .memory_limit = memory.limit,
                     .interfaces = interfaces_up(),
                     .environment = relevant_environment()};
  ask_disk(run_directory, facts);
  return facts;
}

void to_json(nlohmann::ordered_json& json, const MachineFacts& facts) {
  json = {{"process", facts.process},
          {"cores", facts.cores},
          {"host_cores", facts.host_cores},
          {"threads", facts.threads},
          {"instruction_set", facts.instruction_set},
          {"memory_available", facts.memory_available},
          {"memory_limit", facts.memory_limit},
          {"disk_free", facts.disk_free},
          {"disk_trouble", facts.disk_trouble},
          {"interfaces", facts.interfaces},
          {"environment", facts.environment}};
}

void from_json(const nlohmann::ordered_json& json, MachineFacts& facts) {
  json.at("process").get_to(facts.process);
  json.at("cores").get_to(facts.cores);
  json.at("host_cores").get_to(facts.host_cores);
  json.at("threads").get_to(facts.threads);
  json.at("instruction_set").get_to(facts.instruction_set);
  json.at("memory_available").get_to(facts.memory_available);
  json.at("memory_limit").get_to(facts.memory_limit);
  json.at("disk_free").get_to(facts.disk_free);
  json.at("disk_trouble").get_to(facts.disk_trouble);
  json.at("interfaces").get_to(facts.interfaces);
  json.at("environment").get_to(facts.environment);
}

std::string format_cores(const std::vector<int>& cores) {
  std::string text;
  for (size_t first = 0, next = 0; first < cores.size(); first = next) {
    for (next = first + 1; next < cores.size() && cores[next] == cores[next - 1] + 1;) ++next;
    text += fmt::format("{}{}", text.empty() ? "" : ",", cores[first]);
    if (next > first + 1) text += fmt::format("-{}", cores[next - 1]);
  }
  return text;
}

}  // namespace nibble
