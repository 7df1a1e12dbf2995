#include "trainer/checkpoint_load.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <map>
#include <optional>

#include "data/hdf5.hpp"
#include "tensor/error.hpp"
#include "trainer/memory.hpp"
#include "trainer/tensor_elements.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

std::string to_string(const ManifestTensor& tensor) {
  return fmt::format("{} [{}, {}]", name(tensor.dtype), tensor.rows, tensor.cols);
}

using Stored = std::map<std::string, const ManifestTensor*>;

Stored stored_tensors(const Manifest& manifest) {
  Stored stored;
  for (const ManifestTensor& tensor : manifest.tensors) stored[tensor.name] = &tensor;
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
  if (!found->second->is_like(needed))
    refuse(checkpoint, needed.name, "state of another element type or shape", to_string(*found->second),
           to_string(needed));
  return *found->second;
}

/// Memory to fill with elements [first, first + into.size()) of a stored tensor.
struct Target {
  const ManifestTensor& stored;
  Tensor into;  ///< of the stored element type, or bf16 of stored f32
  int64_t first = 0;
};

/// Of a state whose rows add up, what this rank has when their number is another one: the stored rows row,
/// row + rows, ... together.
struct FoldedRows {
  const ManifestTensor& stored;
  Tensor into;  ///< f32, one row
  int64_t row, rows;
};

/// The first element that is not finite, whose bits are `Bits`; their number where there is none.
template <class Bits>
int64_t first_not_finite(const Bits* bits, int64_t count, Bits exponent) {
  constexpr int64_t at_once = 4096;
  for (int64_t begin = 0; begin < count; begin += at_once) {
    const int64_t end = std::min(begin + at_once, count);
    Bits found = 0;  // without a branch, so that the check is faster than memory
    for (int64_t i = begin; i < end; ++i) found |= static_cast<Bits>((bits[i] & exponent) == exponent);
    if (found == 0) continue;
    while ((bits[begin] & exponent) != exponent) ++begin;
    return begin;
  }
  return count;
}

/// What went into a sound checkpoint is finite: a step that is not is refused. `values` [1, n] begin with element
/// `first` of the tensor.
void require_finite(const fs::path& checkpoint, const ManifestTensor& stored, int64_t first, const Tensor& values) {
  int64_t found = values.size();
  if (values.dtype == DType::f32)
    found = first_not_finite<uint32_t>(static_cast<const uint32_t*>(values.data), values.size(), 0x7f800000u);
  else if (values.dtype == DType::bf16)
    found = first_not_finite<uint16_t>(static_cast<const uint16_t*>(values.data), values.size(), 0x7f80u);
  if (found == values.size()) return;
  const float value = values.dtype == DType::f32 ? values.as<float>()[found] : float(values.as<bf16>()[found]);
  const int64_t element = first + found;
  throw Error({.kind = ErrorKind::checkpoint,
               .what = "the state of a checkpoint is not finite",
               .where = fmt::format("{}: {}, element {} (row {}, column {})", checkpoint.string(), stored.name, element,
                                    element / stored.cols, element % stored.cols),
               .seen = fmt::format("{}", value),
               .allowed = "finite numbers",
               .next = "use an earlier checkpoint: move this one away, and --resume takes the newest that is left"});
}

/// Fills elements [at, at + count) of `into` with those of a dataset from `from` on, which are those of the tensor from
/// `first` on.
void read_into(hdf5::File& file, const fs::path& path, const ManifestTensor& stored, int64_t first, int64_t from,
               const Tensor& into, int64_t at, int64_t count) {
  const std::optional<Tensor> elements = view_elements(into, at, count);
  if (elements && into.dtype == stored.dtype) {
    file.read_elements(stored.name, from, *elements);
    require_finite(path, stored, first, *elements);
    return;
  }
  constexpr int64_t most = int64_t{1} << 20;
  OwnedTensor packed(stored.dtype, 1, std::min(most, count));
  for (int64_t done = 0; done < count; done += most) {
    const Tensor part = packed.view().slice_cols(0, std::min(most, count - done));
    file.read_elements(stored.name, from + done, part);
    require_finite(path, stored, first + done, part);
    set_elements(into, at + done, part);
  }
}

/// Opens each rank's file at most once, and one at a time: there may be more of them than a process may open.
void read_targets(const VerifiedCheckpoint& checkpoint, const std::vector<Target>& targets) {
  for (int rank = 0; rank < static_cast<int>(checkpoint.manifest.ranks); ++rank) {
    std::optional<hdf5::File> file;
    for (const Target& target : targets) {
      for (const ManifestPiece& piece : target.stored.pieces) {
        const int64_t begin = std::max(piece.first, target.first);
        const int64_t end = std::min(piece.first + piece.count, target.first + target.into.size());
        if (piece.rank != rank || begin >= end) continue;
        const std::string path = (checkpoint.path / rank_file_name(rank)).string();
        if (!file) file = hdf5::File::open(path, ErrorKind::checkpoint);
        if (const int64_t size = file->describe(target.stored.name).size(); size != piece.count)
          refuse(path, target.stored.name,
                 "a file of the checkpoint holds another part of a tensor than its manifest says",
                 fmt::format("{} elements", size), fmt::format("{} elements", piece.count));
        read_into(*file, checkpoint.path, target.stored, begin, begin - piece.first, target.into, begin - target.first,
                  end - begin);
      }
    }
  }
}

/// Of the parameters, in their order.
std::vector<const ManifestTensor*> weight_tensors(const VerifiedCheckpoint& checkpoint, const ParameterLayout& layout) {
  const Stored stored = stored_tensors(checkpoint.manifest);
  std::vector<const ManifestTensor*> tensors;
  for (const ParameterInfo& info : layout.parameters())
    tensors.push_back(
        &find(checkpoint.path, stored, {weights_prefix + info.name, DType::f32, info.rows, info.cols, {}}));
  return tensors;
}

void read_folded(const VerifiedCheckpoint& checkpoint, const FoldedRows& rows) {
  float* const sum = rows.into.as<float>();
  std::fill_n(sum, rows.into.size(), 0.0f);
  const OwnedTensor row(DType::f32, 1, rows.into.size());
  for (int64_t from = rows.row; from < rows.stored.rows; from += rows.rows) {
    read_targets(checkpoint, {{rows.stored, row, from * rows.stored.cols}});
    for (int64_t i = 0; i < rows.into.size(); ++i) sum[i] += row.view().as<float>()[i];
  }
}

}  // namespace

void load_checkpoint(const VerifiedCheckpoint& checkpoint, StateList& state,
                     const std::vector<std::string_view>& left_out) {
  const auto is_left_out = [&](const std::string& tensor) {
    return std::ranges::any_of(left_out, [&](std::string_view prefix) { return tensor.starts_with(prefix); });
  };
  std::vector<FoldedRows> folded;
  Stored stored = stored_tensors(checkpoint.manifest);
  std::erase_if(stored, [&](const auto& tensor) { return is_left_out(tensor.first); });
  std::vector<Target> targets;
  for (const StateList::Entry& entry : state.entries()) {
    if (is_left_out(entry.name)) continue;
    int64_t rows = entry.rows;
    if (const auto found = stored.find(entry.name); entry.addends && found != stored.end()) rows = found->second->rows;
    const ManifestTensor& tensor =
        find(checkpoint.path, stored, {entry.name, entry.tensor.dtype, rows, entry.cols, {}});
    if (rows == entry.rows) targets.push_back({tensor, entry.tensor, entry.first});
    else if (entry.tensor.size() > 0) folded.push_back({tensor, entry.tensor, entry.first / entry.cols, entry.rows});
    stored.erase(entry.name);
  }
  if (!stored.empty())
    refuse(checkpoint.path, stored.begin()->first, "the checkpoint holds state that this run has no use for",
           fmt::format("{}; {} too many", to_string(*stored.begin()->second), stored.size()),
           fmt::format("the {} entries of this run", state.entries().size()));
  read_targets(checkpoint, targets);
  for (const FoldedRows& rows : folded) read_folded(checkpoint, rows);
}

void require_checkpoint_weights(const VerifiedCheckpoint& checkpoint, const ParameterLayout& layout) {
  weight_tensors(checkpoint, layout);
}

ParameterSet load_checkpoint_weights(const VerifiedCheckpoint& checkpoint, const ParameterLayout& layout,
                                     DType matrix) {
  const std::vector<const ManifestTensor*> tensors = weight_tensors(checkpoint, layout);
  ParameterSet weights(layout, matrix, DType::f32, true, "weights");
  require_held_memory();
  std::vector<Target> targets;
  for (size_t i = 0; i < weights.size(); ++i) targets.push_back({*tensors[i], weights[i], 0});
  read_targets(checkpoint, targets);
  return weights;
}

void read_checkpoint_weight(const VerifiedCheckpoint& checkpoint, const ParameterInfo& parameter, int64_t first,
                            const Tensor& into) {
  const std::string name = weights_prefix + parameter.name;
  const auto stored = std::ranges::find(checkpoint.manifest.tensors, name, &ManifestTensor::name);
  assert(stored != checkpoint.manifest.tensors.end() && into.cols == stored->cols);
  read_targets(checkpoint, {{*stored, into, first * stored->cols}});
}

}  // namespace nibble
