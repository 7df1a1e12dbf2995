#include "trainer/report.hpp"

#include <string.h>

#include <algorithm>
#include <string>

#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "trainer/directory.hpp"
#include "trainer/metrics_reader.hpp"
#include "trainer/report_page.hpp"
#include "trainer/report_run.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

bool is_run(const fs::path& directory) { return exists(metrics_path(directory), ErrorKind::configuration); }

/// RUN of "runs/RUN/", ".", and the like.
std::string base_name(const fs::path& directory) {
  fs::path path = fs::absolute(directory).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

std::vector<fs::path> runs_in(const fs::path& directory) {
  std::vector<fs::path> runs;
  for (const fs::path& entry : list_directory(directory, ErrorKind::configuration))
    if (fs::is_directory(entry) && is_run(entry)) runs.push_back(entry);
  std::ranges::sort(runs, [](const fs::path& a, const fs::path& b) { return strverscmp(a.c_str(), b.c_str()) < 0; });
  return runs;
}

}  // namespace

std::vector<fs::path> find_runs(std::span<const fs::path> paths) {
  std::vector<fs::path> runs;
  const auto add = [&](const fs::path& run) {
    if (std::ranges::none_of(runs, [&](const fs::path& other) { return fs::equivalent(run, other); }))
      runs.push_back(run);
  };
  for (const fs::path& path : paths) {
    std::error_code error;
    const bool directory = fs::is_directory(path, error);
    const std::vector<fs::path> inside = !directory     ? std::vector<fs::path>()
                                         : is_run(path) ? std::vector<fs::path>{path}
                                                        : runs_in(path);
    if (inside.empty())
      throw Error({.kind = ErrorKind::configuration,
                   .what = directory ? "no run is in this folder" : "there is no such folder",
                   .where = path.string(),
                   .allowed = "a run's directory, which holds metrics.jsonl, or a folder of such directories",
                   .next = "check the path"});
    for (const fs::path& run : inside) add(run);
  }
  return runs;
}

void write_report(std::span<const fs::path> runs, const fs::path& output) {
  std::vector<ReportRun> read;
  for (const fs::path& run : runs) {
    const bool namesake = std::ranges::count(runs, base_name(run), base_name) > 1;
    read.push_back(read_run(run, namesake ? run.lexically_normal().string() : base_name(run)));
  }
  write_file_atomically(output, report_page(read));
}

}  // namespace nibble
