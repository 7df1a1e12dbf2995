#include "trainer/checkpoint_save.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "data/hdf5.hpp"
#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "trainer/checkpoint.hpp"
#include "trainer/directory.hpp"
#include "trainer/huggingface_config.hpp"
#include "trainer/tensor_elements.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr int64_t share_block = 4096;  // 16 KiB of f32: no rank writes less of a tensor that is cut

constexpr std::string_view saving_suffix = ".saving";

/// Half-written and half-removed checkpoints of processes that were killed.
void remove_leftovers(const fs::path& root) {
  for (const fs::path& entry : list_directory(root, ErrorKind::resource)) {
    const std::string name = entry.filename().string();
    const size_t dot = name.find('.', 1);
    if (!name.starts_with('.') || dot == std::string::npos) continue;
    const std::string target = name.substr(1, dot - 1);
    std::error_code ignored;  // a leftover that stays harms nobody
    if (parse_step_name(target) && (name.substr(dot) == saving_suffix || is_temporary_name(name, target)))
      fs::remove_all(entry, ignored);
  }
}

/// Better refused before the write than after half of it.
void require_space(const fs::path& folder, uint64_t bytes) {
  std::error_code error;
  const fs::space_info space = fs::space(folder, error);
  if (error || space.available >= bytes) return;
  throw Error({.kind = ErrorKind::resource,
               .what = "the disk has no room for a checkpoint",
               .where = folder.string(),
               .seen = fmt::format("{} bytes free", space.available),
               .allowed = fmt::format("{} bytes", bytes),
               .next = "free space; fewer checkpoints are kept with run.checkpoint.keep"});
}

uint64_t logical_bytes(const StateList& state) {
  uint64_t bytes = 0;
  for (const StateList::Entry& entry : state.entries())
    bytes += static_cast<uint64_t>(entry.rows * entry.cols) * size_of(entry.tensor.dtype);
  return bytes;
}

void write_share(hdf5::File& file, const StateList::Entry& entry, const Share& share) {
  file.create_dataset(entry.name, entry.tensor.dtype, {share.count});
  // So that the file can be read without the manifest, too.
  file.set_attribute(entry.name, "logical_rows", entry.rows);
  file.set_attribute(entry.name, "logical_cols", entry.cols);
  file.set_attribute(entry.name, "first_element", share.first);
  const int64_t offset = share.first - entry.first;  // of the share within the tensor in memory
  if (const std::optional<Tensor> elements = view_elements(entry.tensor, offset, share.count)) {
    file.write_range(entry.name, 0, *elements);
    return;
  }
  constexpr int64_t most = int64_t{1} << 20;
  OwnedTensor packed(entry.tensor.dtype, 1, std::min(most, share.count));
  for (int64_t done = 0; done < share.count; done += most) {
    const Tensor part = packed.view().slice_cols(0, std::min(most, share.count - done));
    get_elements(entry.tensor, offset + done, part);
    file.write_range(entry.name, done, part);
  }
}

/// The ranks' pieces as tensors of the manifest.
std::vector<ManifestTensor> join(std::span<const RankFile> files) {
  const auto defect = [](const std::string& tensor, std::string seen, std::string allowed) {
    throw Error({.kind = ErrorKind::internal,
                 .what = "what the ranks wrote is not the state",
                 .where = tensor,
                 .seen = std::move(seen),
                 .allowed = std::move(allowed)});
  };
  std::vector<ManifestTensor> tensors = files.front().tensors;
  for (const RankFile& file : files.subspan(1)) {
    if (file.tensors.size() != tensors.size())
      defect(file.file.name, fmt::format("{} tensors", file.tensors.size()), fmt::format("{}", tensors.size()));
    for (size_t i = 0; i < tensors.size(); ++i) {
      const ManifestTensor& part = file.tensors[i];
      if (part.name != tensors[i].name || !part.is_like(tensors[i]))
        defect(part.name, fmt::format("{} has it in this place", file.file.name), tensors[i].name);
      tensors[i].pieces.insert(tensors[i].pieces.end(), part.pieces.begin(), part.pieces.end());
    }
  }
  for (ManifestTensor& tensor : tensors) {
    std::ranges::sort(tensor.pieces, {}, &ManifestPiece::first);
    if (const std::string fault = fault_of_pieces(tensor, static_cast<int64_t>(files.size())); !fault.empty())
      defect(tensor.name, fault, "pieces that together are the tensor");
  }
  return tensors;
}

/// The ranks may be on other machines than this one.
void require_as_written(const fs::path& folder, const ManifestFile& file) {
  std::error_code error;
  const uint64_t bytes = fs::file_size(folder / file.name, error);
  if (!error && bytes == file.bytes) return;
  throw Error({.kind = ErrorKind::resource,
               .what = "the first rank does not see the file that another rank wrote",
               .where = (folder / file.name).string(),
               .seen = error ? error.message() : fmt::format("{} bytes", bytes),
               .allowed = fmt::format("{} bytes", file.bytes),
               .next = "choose a run.directory on a file system that all ranks share"});
}

ManifestFile describe(const fs::path& folder, const std::string& name) {
  const FileChecksum written = checksum_file(folder / name, ErrorKind::resource);
  return {name, written.bytes, written.value};
}

}  // namespace

Share share_of(const StateList::Entry& entry, int rank, int ranks) {
  if (!entry.replicated) return {entry.first, entry.tensor.size()};
  const int64_t size = entry.tensor.size(), blocks = (size + share_block - 1) / share_block;
  const auto begin = [&](int64_t r) { return std::min((blocks * r + ranks - 1) / ranks * share_block, size); };
  return {begin(rank), begin(rank + 1) - begin(rank)};
}

fs::path saving_path(const fs::path& run_directory, int64_t step) {
  const fs::path path = checkpoint_path(run_directory, step);
  return path.parent_path() / fmt::format(".{}{}", path.filename().string(), saving_suffix);
}

void begin_checkpoint(const fs::path& run_directory, int64_t step, const StateList& state) {
  const fs::path folder = saving_path(run_directory, step);
  remove_leftovers(folder.parent_path());
  std::error_code error;
  fs::create_directories(folder, error);
  if (error)
    throw Error({.kind = ErrorKind::resource,
                 .what = "cannot create a directory",
                 .where = folder.string(),
                 .seen = error.message(),
                 .next = "check free space and the permissions there, or choose another run.directory"});
  sync_directory(run_directory);  // which may have got its folder of checkpoints only now
  require_space(folder, logical_bytes(state));
}

RankFile write_rank_file(const fs::path& folder, int rank, int ranks, const StateList& state) {
  const std::string name = rank_file_name(rank);
  RankFile written;
  uint64_t bytes = 0;
  for (const StateList::Entry& entry : state.entries())
    bytes += static_cast<uint64_t>(share_of(entry, rank, ranks).count) * size_of(entry.tensor.dtype);
  require_space(folder, bytes);
  hdf5::File file = hdf5::File::create((folder / name).string(), ErrorKind::resource);
  for (const StateList::Entry& entry : state.entries()) {
    written.tensors.push_back({entry.name, entry.tensor.dtype, entry.rows, entry.cols, {}});
    const Share share = share_of(entry, rank, ranks);
    if (share.count == 0) continue;
    write_share(file, entry, share);
    written.tensors.back().pieces = {{rank, share.first, share.count}};
  }
  file.close();
  sync_file(folder / name);
  written.file = describe(folder, name);
  return written;
}

fs::path commit_checkpoint(const fs::path& run_directory, const CheckpointHeader& header,
                           std::span<const RankFile> files) {
  const fs::path folder = saving_path(run_directory, header.step);
  Manifest manifest{.header = header, .ranks = static_cast<int64_t>(files.size()), .files = {}, .tensors = join(files)};
  for (const RankFile& file : files) {
    require_as_written(folder, file.file);
    manifest.files.push_back(file.file);
  }
  for (const TokenizerFile& file : header.tokenizer_files) {
    write_file_atomically(folder / file.name, file.contents);
    manifest.files.push_back(describe(folder, file.name));
  }
  write_manifest(folder, manifest);
  const fs::path path = checkpoint_path(run_directory, header.step);
  replace_directory(folder, path);
  return path;
}

void abandon_checkpoint(const fs::path& run_directory, int64_t step) noexcept {
  std::error_code ignored;  // what stays, the next save removes
  fs::remove_all(saving_path(run_directory, step), ignored);
}

fs::path save_checkpoint(const fs::path& run_directory, const CheckpointHeader& header, const StateList& state) {
  try {
    begin_checkpoint(run_directory, header.step, state);
    const RankFile file = write_rank_file(saving_path(run_directory, header.step), 0, 1, state);
    return commit_checkpoint(run_directory, header, {&file, 1});
  } catch (...) {
    abandon_checkpoint(run_directory, header.step);
    throw;
  }
}

}  // namespace nibble
