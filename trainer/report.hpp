// The report of runs: one HTML page that needs nothing beside itself.
//
// Not for what stands on the page (report_page.hpp).
#pragma once

#include <filesystem>
#include <span>
#include <vector>

namespace nibble {

/// The runs among these paths: a directory with metrics.jsonl is a run, another stands for the runs right inside it, in
/// the order of their names, numbers by value. A run that is named twice counts once.
/// Throws Error{configuration}: no directory, no run in it.
std::vector<std::filesystem::path> find_runs(std::span<const std::filesystem::path> paths);

/// Writes a page on these runs' directories; `output` is replaced as a whole.
/// Throws Error{checkpoint}: metrics that are missing or damaged before their last line; Error{resource}.
void write_report(std::span<const std::filesystem::path> runs, const std::filesystem::path& output);

}  // namespace nibble
