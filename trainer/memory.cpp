#include "trainer/memory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <map>
#include <optional>
#include <vector>

#include "tensor/error.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr size_t unlimited = std::numeric_limits<size_t>::max();

/// Lines "Name: 123 kB" or "name 123" as numbers by name, without units; empty if there is no such file.
std::map<std::string, size_t> read_numbers(const fs::path& path) {
  std::map<std::string, size_t> numbers;
  std::ifstream file(path);
  for (std::string name; file >> name;) {
    if (name.ends_with(':')) name.pop_back();
    size_t value = 0;
    if (file >> value) numbers[name] = value;
    file.clear();
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return numbers;
}

/// The number in a file of its own; "max" and a file that is not there are none.
std::optional<size_t> read_number(const fs::path& path) {
  std::ifstream file(path);
  size_t value = 0;
  return file >> value ? std::optional(value) : std::nullopt;
}

/// What one version of control groups calls its files, and where they are.
struct GroupFiles {
  const char* mount;
  const char *limit, *use;
  std::vector<const char*> droppable;  ///< rows of memory.stat
};

/// The least that the group or one above it leaves. A container may see its own group as the root: where the path does
/// not exist, its parents up to the mount still do.
void limit_by_groups(const fs::path& root, const GroupFiles& files, const std::string& group, AvailableMemory& least) {
  const fs::path mount = root / files.mount;
  fs::path relative = fs::path(group).relative_path();
  while (true) {
    const fs::path folder = relative.empty() ? mount : mount / relative;
    const std::optional<size_t> limit = read_number(folder / files.limit), use = read_number(folder / files.use);
    if (limit && use) {
      const std::map<std::string, size_t> statistics = read_numbers(folder / "memory.stat");
      size_t held = *use;
      for (const char* row : files.droppable)
        if (const auto found = statistics.find(row); found != statistics.end()) held -= std::min(held, found->second);
      const size_t left = *limit - std::min(*limit, held);
      if (left < least.bytes) least = {left, (folder / files.limit).string()};
    }
    if (relative.empty()) return;
    relative = relative.parent_path();
  }
}

/// "weights 1.50 GiB, activations 3.0 MiB".
std::string largest_rows(const MemoryTable& table) {
  constexpr ptrdiff_t most_rows = 5;
  const MemoryRows rows = largest_first(table);
  std::string text;
  for (auto row = rows.begin(); row != rows.end() && row - rows.begin() < most_rows; ++row)
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", row->first, format_bytes(row->second));
  return text;
}

}  // namespace

ResidentMemory resident_memory() {
  std::map<std::string, size_t> kibibytes = read_numbers("/proc/self/status");
  return {kibibytes["VmRSS"] << 10, kibibytes["RssAnon"] << 10, kibibytes["VmHWM"] << 10};
}

AvailableMemory available_memory(const fs::path& root) {
  AvailableMemory least{unlimited, "nothing"};
  const std::map<std::string, size_t> system = read_numbers(root / "proc/meminfo");
  if (const auto found = system.find("MemAvailable"); found != system.end())
    least = {found->second << 10, (root / "proc/meminfo").string()};

  const GroupFiles version1{"sys/fs/cgroup/memory",
                            "memory.limit_in_bytes",
                            "memory.usage_in_bytes",
                            {"total_inactive_file", "total_active_file"}},
      version2{"sys/fs/cgroup", "memory.max", "memory.current", {"inactive_file", "active_file"}};
  std::ifstream groups(root / "proc/self/cgroup");  // lines HIERARCHY:CONTROLLERS:PATH
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",",
                      group = line.substr(second + 1);
    if (controllers == ",,") limit_by_groups(root, version2, group, least);
    if (controllers.find(",memory,") != std::string::npos) limit_by_groups(root, version1, group, least);
  }
  return least;
}

std::string format_bytes(size_t bytes) {
  const double mebibytes = static_cast<double>(bytes) / (1 << 20);
  return mebibytes < 1024 ? fmt::format("{:.1f} MiB", mebibytes) : fmt::format("{:.2f} GiB", mebibytes / 1024);
}

MemoryRows largest_first(const MemoryTable& table) {
  MemoryRows rows(table.begin(), table.end());
  std::stable_sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  return rows;
}

void require_fits(const std::string& what, const MemoryTable& table, const AvailableMemory& most,
                  const std::function<std::string()>& next) {
  if (total(table) <= most.bytes) return;
  throw Error({.kind = ErrorKind::resource,
               .what = what + " needs more memory than there is",
               .seen = fmt::format("{}: {}", format_bytes(total(table)), largest_rows(table)),
               .allowed = fmt::format("{}, what this process holds already included ({})", format_bytes(most.bytes),
                                      most.limit),
               .next = next()});
}

void require_held_memory() {
  AvailableMemory most = available_memory();
  most.bytes += resident_memory().anonymous;
  require_fits("the model", held_memory(), most,
               [] { return "choose a smaller model or less at once, or end what else fills the memory"; });
}

}  // namespace nibble
