#include "trainer/checkpoint.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "data/hdf5.hpp"
#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "trainer/directory.hpp"
#include "trainer/huggingface_config.hpp"
#include "trainer/memory.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

fs::path root_of(const fs::path& run_directory) { return run_directory / "checkpoints"; }

std::string step_name(int64_t step) { return fmt::format("step_{:08}", step); }

/// The step of a name that `step_name` makes.
std::optional<int64_t> parse_step(std::string_view name) {
  constexpr std::string_view prefix = "step_";
  if (!name.starts_with(prefix)) return std::nullopt;
  int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [stopped, error] = std::from_chars(name.data() + prefix.size(), end, step);
  // The way back refuses other spellings of the number.
  if (error != std::errc() || stopped != end || step < 0 || step_name(step) != name) return std::nullopt;
  return step;
}

/// Half-written and half-removed checkpoints of processes that were killed.
void remove_leftovers(const fs::path& root) {
  for (const fs::path& entry : list_directory(root, ErrorKind::resource)) {
    const std::string name = entry.filename().string();
    const size_t dot = name.find('.', 1);
    if (dot == std::string::npos) continue;
    const std::string target = name.substr(1, dot - 1);
    std::error_code ignored;  // a leftover that stays harms nobody
    if (parse_step(target) && is_temporary_name(name, target)) fs::remove_all(entry, ignored);
  }
}

/// Better refused before the write than after half of it.
void check_space(const fs::path& root, const StateList& state) {
  std::error_code error;
  const fs::space_info space = fs::space(root, error);
  if (error || space.available >= state.bytes()) return;
  throw Error({.kind = ErrorKind::resource,
               .what = "the disk has no room for a checkpoint",
               .where = root.string(),
               .seen = fmt::format("{} bytes free", space.available),
               .allowed = fmt::format("{} bytes", state.bytes()),
               .next = "free space; fewer checkpoints are kept with run.checkpoint.keep"});
}

ManifestTensor describe(const StateList::Entry& entry) {
  return {entry.name, entry.tensor.dtype, entry.tensor.rows, entry.tensor.cols};
}

std::string to_string(const ManifestTensor& tensor) {
  return fmt::format("{} [{}, {}]", name(tensor.dtype), tensor.rows, tensor.cols);
}

using Stored = std::map<std::string, ManifestTensor>;

Stored stored_tensors(const Manifest& manifest) {
  Stored stored;
  for (const ManifestTensor& tensor : manifest.tensors) stored[tensor.name] = tensor;
  return stored;
}

[[noreturn]] void refuse(const fs::path& checkpoint, const std::string& tensor, std::string what, std::string seen,
                         std::string allowed) {
  throw Error({.kind = ErrorKind::checkpoint,
               .what = std::move(what),
               .where = fmt::format("{}: {}", checkpoint.string(), tensor),
               .seen = std::move(seen),
               .allowed = std::move(allowed),
               .next = "the checkpoint is of another run: use the configuration beside it (config.yaml of its run)"});
}

const ManifestTensor& find(const fs::path& checkpoint, const Stored& stored, const ManifestTensor& needed) {
  const auto found = stored.find(needed.name);
  if (found == stored.end())
    refuse(checkpoint, needed.name, "the checkpoint lacks state that this run needs",
           fmt::format("{} entries, none of this name", stored.size()), to_string(needed));
  return found->second;
}

hdf5::File open_state(const VerifiedCheckpoint& checkpoint) {
  if (checkpoint.manifest.ranks != 1)
    throw Error({.kind = ErrorKind::checkpoint,
                 .what = "the checkpoint was written by several ranks",
                 .where = checkpoint.path.string(),
                 .seen = fmt::format("{} ranks", checkpoint.manifest.ranks),
                 .allowed = "1 rank",
                 .next = "resume and save it with the nibble that wrote it"});
  return hdf5::File::open((checkpoint.path / rank_file_name(0)).string(), ErrorKind::checkpoint);
}

void write_state(const fs::path& path, const StateList& state) {
  hdf5::File file = hdf5::File::create(path.string(), ErrorKind::resource);
  for (const StateList::Entry& entry : state.entries()) {
    file.write(entry.name, entry.tensor);
    // Which part of the whole matrix this dataset is, for a resume on another number of ranks.
    file.set_attribute(entry.name, "logical_rows", entry.tensor.rows);
    file.set_attribute(entry.name, "logical_cols", entry.tensor.cols);
    file.set_attribute(entry.name, "row_offset", int64_t{0});
    file.set_attribute(entry.name, "col_offset", int64_t{0});
  }
  file.close();
  sync_file(path);
}

/// Reads an f32 dataset into a bf16 matrix, a few rows at a time.
void read_rounded(hdf5::File& file, const std::string& name, const Tensor& into) {
  const int64_t step = std::max<int64_t>(1, (int64_t{1} << 20) / std::max<int64_t>(1, into.cols));
  OwnedTensor block(DType::f32, std::min(step, into.rows), into.cols);
  for (int64_t first = 0; first < into.rows; first += step) {
    const Tensor part = block.view().slice_rows(0, std::min(step, into.rows - first));
    file.read_range(name, first, part);
    for (int64_t i = 0; i < part.rows; ++i)
      std::transform(part.row<float>(i), part.row<float>(i) + part.cols, into.row<bf16>(first + i),
                     [](float value) { return bf16(value); });
  }
}

}  // namespace

fs::path checkpoint_path(const fs::path& run_directory, int64_t step) {
  return root_of(run_directory) / step_name(step);
}

fs::path save_checkpoint(const fs::path& run_directory, const CheckpointHeader& header, const StateList& state) {
  const fs::path path = checkpoint_path(run_directory, header.step);
  remove_leftovers(root_of(run_directory));
  AtomicDirectory folder(path);
  check_space(folder.path(), state);
  write_state(folder.path() / rank_file_name(0), state);
  std::vector<std::string> files = {rank_file_name(0)};
  if (!header.tokenizer_model.empty()) {
    write_file_atomically(folder.path() / tokenizer_file_name, header.tokenizer_model);
    files.emplace_back(tokenizer_file_name);
  }

  Manifest manifest{.header = header, .ranks = 1, .files = {}, .tensors = {}};
  for (const std::string& file : files) {
    const FileChecksum written = checksum_file(folder.path() / file, ErrorKind::resource);
    manifest.files.push_back({file, written.bytes, written.value});
  }
  for (const StateList::Entry& entry : state.entries()) manifest.tensors.push_back(describe(entry));
  write_manifest(folder.path(), manifest);
  folder.commit();
  return path;
}

VerifiedCheckpoint open_checkpoint(const fs::path& path) {
  VerifiedCheckpoint checkpoint{path, read_manifest(path)};
  verify_files(path, checkpoint.manifest);
  if (checkpoint.manifest.files.back().name == tokenizer_file_name)
    checkpoint.manifest.header.tokenizer_model = read_file(path / tokenizer_file_name, ErrorKind::checkpoint);
  return checkpoint;
}

void load_checkpoint(const VerifiedCheckpoint& checkpoint, StateList& state) {
  Stored stored = stored_tensors(checkpoint.manifest);
  for (const StateList::Entry& entry : state.entries()) {
    const ManifestTensor expected = describe(entry), &tensor = find(checkpoint.path, stored, expected);
    if (tensor != expected)
      refuse(checkpoint.path, entry.name, "state of another element type or shape", to_string(tensor),
             to_string(expected));
    stored.erase(entry.name);
  }
  if (!stored.empty())
    refuse(checkpoint.path, stored.begin()->first, "the checkpoint holds state that this run has no use for",
           fmt::format("{}; {} too many", to_string(stored.begin()->second), stored.size()),
           fmt::format("the {} entries of this run", state.entries().size()));
  hdf5::File file = open_state(checkpoint);
  for (const StateList::Entry& entry : state.entries()) file.read(entry.name, entry.tensor);
}

ParameterSet load_checkpoint_weights(const VerifiedCheckpoint& checkpoint, const ParameterLayout& layout,
                                     DType matrix) {
  const Stored stored = stored_tensors(checkpoint.manifest);
  for (const ParameterInfo& info : layout.parameters()) {
    const ManifestTensor expected{weights_prefix + info.name, DType::f32, info.rows, info.cols};
    const ManifestTensor& tensor = find(checkpoint.path, stored, expected);
    if (tensor != expected)
      refuse(checkpoint.path, expected.name, "weights of another element type or shape", to_string(tensor),
             to_string(expected));
  }
  hdf5::File file = open_state(checkpoint);
  ParameterSet weights(layout, matrix, DType::f32, true, "weights");
  require_held_memory();
  for (size_t i = 0; i < weights.size(); ++i) {
    const std::string name = weights_prefix + layout.parameters()[i].name;
    if (weights[i].dtype == DType::f32) file.read(name, weights[i]);
    else read_rounded(file, name, weights[i]);
  }
  return weights;
}

std::vector<int64_t> list_checkpoints(const fs::path& run_directory) {
  std::vector<int64_t> steps;
  for (const fs::path& entry : list_directory(root_of(run_directory), ErrorKind::checkpoint))
    if (const std::optional<int64_t> step = parse_step(entry.filename().string())) steps.push_back(*step);
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

void prune_checkpoints(const fs::path& run_directory, int64_t keep, int64_t keep_every) {
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
    if (keep_every == 0 || whole[i] % keep_every != 0) remove_directory(checkpoint_path(run_directory, whole[i]));
}

}  // namespace nibble
