#include "trainer/checkpoint.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "trainer/directory.hpp"
#include "trainer/huggingface_config.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

fs::path root_of(const fs::path& run_directory) { return run_directory / "checkpoints"; }

std::string step_name(int64_t step) { return fmt::format("step_{:08}", step); }

}  // namespace

fs::path checkpoint_path(const fs::path& run_directory, int64_t step) {
  return root_of(run_directory) / step_name(step);
}

std::optional<int64_t> parse_step_name(std::string_view name) {
  constexpr std::string_view prefix = "step_";
  if (!name.starts_with(prefix)) return std::nullopt;
  int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [stopped, error] = std::from_chars(name.data() + prefix.size(), end, step);
  // The way back refuses other spellings of the number.
  if (error != std::errc() || stopped != end || step < 0 || step_name(step) != name) return std::nullopt;
  return step;
}

VerifiedCheckpoint open_checkpoint(const fs::path& path, Verification verification) {
  VerifiedCheckpoint checkpoint{path, read_manifest(path)};
  if (verification == Verification::here) verify_files(path, checkpoint.manifest);
  for (TokenizerFile& file : checkpoint.manifest.header.tokenizer_files)
    file.contents = read_file(path / file.name, ErrorKind::checkpoint);
  return checkpoint;
}

std::vector<int64_t> list_checkpoints(const fs::path& run_directory) {
  std::vector<int64_t> steps;
  for (const fs::path& entry : list_directory(root_of(run_directory), ErrorKind::checkpoint))
    if (const std::optional<int64_t> step = parse_step_name(entry.filename().string())) steps.push_back(*step);
  std::ranges::sort(steps);
  return steps;
}

std::optional<VerifiedCheckpoint> newest_valid_checkpoint(const fs::path& run_directory,
                                                          std::vector<RefusedCheckpoint>& refused) {
  std::vector<int64_t> steps = list_checkpoints(run_directory);
  std::ranges::reverse(steps);
  for (const int64_t step : steps) {
    const fs::path path = checkpoint_path(run_directory, step);
    try {
      return open_checkpoint(path);
    } catch (const Error& error) {
      refused.push_back({path, error.detail().what});
    }
  }
  return std::nullopt;
}

void prune_checkpoints(const fs::path& run_directory, int64_t keep, int64_t keep_every, std::span<const int64_t> kept) {
  std::vector<int64_t> whole;
  for (const int64_t step : list_checkpoints(run_directory)) {
    try {
      read_manifest(checkpoint_path(run_directory, step));
      whole.push_back(step);
    } catch (const Error&) {
      // Damaged: left for its owner to look at.
    }
  }
  const size_t old = whole.size() - std::min(whole.size(), static_cast<size_t>(keep));
  for (size_t i = 0; i < old; ++i)
    if ((keep_every == 0 || whole[i] % keep_every != 0) && std::ranges::find(kept, whole[i]) == kept.end())
      remove_directory(checkpoint_path(run_directory, whole[i]));
}

}  // namespace nibble
