// Checkpoints of several ranks, which are played one after the other in one process.
#include <cstring>
#include <functional>
#include <numeric>

#include "tensor/files.hpp"
#include "tests/tensor/temporary_directory.hpp"
#include "trainer/checkpoint_load.hpp"
#include "trainer/checkpoint_save.hpp"
#include "trainer/tensor_elements.hpp"
#include "trainer/weight_source.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;

ModelConfig model() {
  return {.vocabulary = 700,
          .width = 24,
          .layers = 1,
          .heads = 2,
          .kv_heads = 1,
          .head_dim = 4,
          .ffn = 12,
          .context = 32,
          .tied = true};
}

CheckpointHeader header_of(int64_t step) {
  return {.step = step, .model = model(), .tokenizer = make_byte_tokenizer()->info(), .config_text = "steps: 1\n"};
}

/// Elements that `rank` owns of a sharded tensor: cut elsewhere than replicated tensors are, and not in the ranks'
/// order.
Share run_of(int64_t size, int rank, int ranks) {
  const auto begin = [&](int part) { return size * part / ranks; };
  const int part = ranks - 1 - rank;
  return {begin(part), begin(part + 1) - begin(part)};
}

/// One rank's part of a state whose every element has a value of its own.
struct RankState {
  /// `sharded`: the weights and moments are runs, else they are whole on every rank.
  RankState(int rank, int ranks, bool sharded) {
    for (size_t i = 0; i < layout.parameters().size(); ++i) {
      const ParameterInfo& info = layout.parameters()[i];
      add(weights_prefix + info.name, DType::f32, info.rows, info.cols, rank, ranks, sharded);
      add("moment/" + info.name, DType::bf16, info.rows, info.cols, rank, ranks, sharded);
    }
    add("codes", DType::u8, 3, 5000, rank, ranks, false);
    list.add_scalar("tokens", tokens);
  }
  RankState(const RankState&) = delete;

  void add(const std::string& name, DType type, int64_t rows, int64_t cols, int rank, int ranks, bool sharded) {
    const Share share = sharded ? run_of(rows * cols, rank, ranks) : Share{0, rows * cols};
    memory.emplace_back(type, sharded ? 1 : rows, sharded ? share.count : cols);
    if (sharded) list.add_run(name, memory.back().view(), rows, cols, share.first);
    else list.add(name, memory.back().view());
  }
  void fill() {
    uint32_t tensor = 0;
    for (const StateList::Entry& entry : list.entries()) {
      const auto size = static_cast<int64_t>(size_of(entry.tensor.dtype));
      for (int64_t i = 0; i < entry.tensor.size() * size; ++i)
        static_cast<uint8_t*>(entry.tensor.data)[i] =
            static_cast<uint8_t>((static_cast<uint64_t>(entry.first * size + i) * 2654435761u + tensor * 97u) >> 13);
      if (entry.tensor.dtype == DType::f32 || entry.tensor.dtype == DType::bf16)
        for (int64_t i = size - 1; i < entry.tensor.size() * size; i += size)
          static_cast<uint8_t*>(entry.tensor.data)[i] &= 0xbf;  // finite
      ++tensor;
    }
  }
  std::string bytes() const {
    std::string all;
    for (const StateList::Entry& entry : list.entries())
      all.append(static_cast<const char*>(entry.tensor.data), entry.tensor.bytes());
    return all;
  }

  ParameterLayout layout{model()};
  std::vector<OwnedTensor> memory;
  int64_t tokens = 0;
  StateList list;
};

class CheckpointRanks : public TemporaryDirectoryTest {
 protected:
  std::vector<RankFile> write_files(int ranks, bool sharded, int64_t step) {
    std::vector<RankFile> files;
    for (int rank = 0; rank < ranks; ++rank) {
      RankState state(rank, ranks, sharded);
      state.fill();
      if (rank == 0) begin_checkpoint(directory_, step, state.list);
      files.push_back(
          parse_rank_file(to_text(write_rank_file(saving_path(directory_, step), rank, ranks, state.list))));
    }
    return files;
  }
  fs::path save(int ranks, bool sharded, int64_t step = 5) {
    return commit_checkpoint(directory_, header_of(step), write_files(ranks, sharded, step));
  }
  /// The error of reading the checkpoint after its manifest was changed, and its checksum with it.
  ErrorDetail error_after(const fs::path& path, const std::function<void(Manifest&)>& change) {
    Manifest manifest = read_manifest(path);
    change(manifest);
    write_manifest(path, manifest);
    RankState state(0, 1, false);
    return error_of([&] { load_checkpoint(open_checkpoint(path), state.list); });
  }
};

TEST_F(CheckpointRanks, AnyNumberOfRanksReadsWhatAnyNumberWrote) {
  for (const int then : {1, 2, 3, 8})
    for (const bool sharded_then : {false, true}) {
      const VerifiedCheckpoint checkpoint = open_checkpoint(save(then, sharded_then));
      EXPECT_EQ(checkpoint.manifest.ranks, then);
      for (const int now : {1, 2, 5})
        for (const bool sharded_now : {false, true})
          for (int rank = 0; rank < now; ++rank) {
            RankState expected(rank, now, sharded_now), loaded(rank, now, sharded_now);
            expected.fill();
            load_checkpoint(checkpoint, loaded.list);
            EXPECT_EQ(loaded.bytes(), expected.bytes())
                << then << " ranks" << (sharded_then ? ", sharded" : "") << ", read by rank " << rank << " of " << now;
          }
    }
}

TEST_F(CheckpointRanks, WeightsAreReadAlone) {
  const VerifiedCheckpoint whole = open_checkpoint(save(1, false, 5)), cut = open_checkpoint(save(3, true, 6));
  const ParameterLayout layout(model());
  for (const DType matrix : {DType::f32, DType::bf16}) {
    const ParameterSet expected = load_checkpoint_weights(whole, layout, matrix);
    const ParameterSet weights = load_checkpoint_weights(cut, layout, matrix);
    for (size_t i = 0; i < weights.size(); ++i)
      for (int64_t row = 0; row < weights[i].rows; ++row)
        ASSERT_EQ(std::memcmp(weights[i].slice_rows(row, 1).data, expected[i].slice_rows(row, 1).data,
                              weights[i].slice_rows(row, 1).bytes()),
                  0)
            << layout.parameters()[i].name;
  }
}

TEST_F(CheckpointRanks, RowsOfWeightsAreReadOneByOne) {
  const VerifiedCheckpoint whole = open_checkpoint(save(1, false, 5));
  const ParameterSet expected = load_checkpoint_weights(whole, ParameterLayout(model()), DType::f32);
  const std::unique_ptr<WeightSource> source = open_checkpoint_weights(open_checkpoint(save(3, true, 6)));
  EXPECT_EQ(source->config(), model());
  for (size_t i = 0; i < source->parameters(); ++i)
    for (const int64_t at_once : {int64_t{1}, int64_t{7}, source->info(i).rows}) {
      const ParameterInfo& info = source->info(i);
      for (int64_t first = 0; first < info.rows; first += at_once) {
        const int64_t count = std::min(at_once, info.rows - first);
        const OwnedTensor wide(DType::f32, count, info.cols + 3), narrow(DType::bf16, count, info.cols);
        const Tensor rows = wide.view().slice_cols(0, info.cols);
        source->read_rows(i, first, rows);
        source->read_rows(i, first, narrow);
        for (int64_t row = 0; row < count; ++row)
          for (int64_t col = 0; col < info.cols; ++col) {
            const float value = expected[i].row<float>(first + row)[col];
            ASSERT_EQ(rows.row<float>(row)[col], value) << info.name;
            ASSERT_EQ(narrow.view().row<bf16>(row)[col], bf16(value)) << info.name;
          }
      }
    }
  VerifiedCheckpoint other = open_checkpoint(save(2, true, 7));
  other.manifest.header.model.ffn += 2;
  EXPECT_EQ(error_of([&] { open_checkpoint_weights(other); }).what, "state of another element type or shape");
}

TEST_F(CheckpointRanks, ReplicatedTensorsAreWrittenOnceByAllRanksTogether) {
  float value = 0;
  for (const int64_t size : {int64_t{1}, int64_t{4096}, int64_t{4097}, int64_t{1} << 20, (int64_t{1} << 20) + 5})
    for (const int ranks : {1, 2, 3, 8}) {
      StateList list;
      list.add("tensor", Tensor(&value, 1, size));
      int64_t next = 0, most = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const Share share = share_of(list.entries()[0], rank, ranks);
        EXPECT_EQ(share.first, next);
        EXPECT_TRUE(share.first % 4096 == 0 || share.first == size);
        next += share.count;
        most = std::max(most, share.count);
      }
      EXPECT_EQ(next, size);
      EXPECT_LE(most, size / ranks + 4096);
      EXPECT_GE(share_of(list.entries()[0], 0, ranks).count, std::min<int64_t>(size, 4096));
    }
}

TEST_F(CheckpointRanks, AManifestThatLiesAboutPiecesIsRefused) {
  const fs::path path = save(2, true);
  const std::string original = read_file(path / "manifest.json", ErrorKind::data);
  using Lie = std::pair<std::function<void(ManifestTensor&)>, const char*>;
  const Lie lies[] = {
      {[](ManifestTensor& tensor) { tensor.pieces[1].first -= 1; }, "one begins at"},
      {[](ManifestTensor& tensor) { tensor.pieces[1].first += 1; }, "one begins at"},
      {[](ManifestTensor& tensor) { tensor.pieces[1].count += 1; }, "one ends beyond"},
      {[](ManifestTensor& tensor) { tensor.pieces[1].count = INT64_MAX; }, "one ends beyond"},
      {[](ManifestTensor& tensor) { tensor.pieces[1].count -= 1; }, "they end at"},
      {[](ManifestTensor& tensor) { tensor.pieces.pop_back(); }, "they end at"},
      {[](ManifestTensor& tensor) { tensor.pieces.clear(); }, "they end at"},
      {[](ManifestTensor& tensor) { tensor.pieces[1].rank = 0; }, "rank 0 has two"},
      {[](ManifestTensor& tensor) { tensor.pieces[1].rank = tensor.pieces[0].rank; }, "has two"},
      {[](ManifestTensor& tensor) { tensor.pieces[1].rank = 2; }, "there is no rank 2"},
      {[](ManifestTensor& tensor) { tensor.pieces[1].rank = -1; }, "a value that cannot be"},
      {[](ManifestTensor& tensor) { tensor.pieces[0].count = 0; }, "a value that cannot be"},
      {[](ManifestTensor& tensor) { tensor.rows = tensor.cols = int64_t{1} << 32; }, "larger than any memory"},
      {[](ManifestTensor& tensor) { tensor.rows *= 2; }, "they end at"},
      {[](ManifestTensor& tensor) { std::swap(tensor.pieces[0].rank, tensor.pieces[1].rank); }, "another part"}};
  for (const auto& [lie, says] : lies) {
    write(path / "manifest.json", original);
    const ErrorDetail error = error_after(path, [&](Manifest& manifest) {
      // Of an odd number of elements, so that the two ranks' pieces have different sizes.
      ManifestTensor* odd = nullptr;
      for (ManifestTensor& tensor : manifest.tensors)
        if (tensor.pieces.size() == 2 && tensor.pieces[0].count != tensor.pieces[1].count) odd = &tensor;
      ASSERT_NE(odd, nullptr);
      lie(*odd);
    });
    EXPECT_EQ(error.kind, ErrorKind::checkpoint) << says;
    EXPECT_NE(error.what.find(says), std::string::npos) << error.what << " instead of " << says;
  }
  write(path / "manifest.json", original);
  EXPECT_EQ(error_after(path, [](Manifest& manifest) { manifest.tensors.push_back(manifest.tensors[0]); }).what,
            "two tensors have one name");
  write(path / "manifest.json", original);
  EXPECT_EQ(error_after(path, [](Manifest& manifest) { manifest.ranks = 3; }).what,
            "the number of files is not that of the ranks");
}

TEST_F(CheckpointRanks, ADamagedOrMissingFileOfAnyRankIsFound) {
  const fs::path path = save(3, true);
  set_byte(path / rank_file_name(2), 3000, 'x');
  EXPECT_EQ(error_of([&] { open_checkpoint(path); }).what,
            "a file of the checkpoint is damaged: its checksum is wrong");
  // Where another rank has looked, the bytes are not read a second time.
  EXPECT_EQ(open_checkpoint(path, Verification::by_another_rank).manifest.ranks, 3);
  fs::remove(path / rank_file_name(1));
  EXPECT_EQ(error_of([&] { open_checkpoint(path); }).what, "a file of the checkpoint is missing");
}

TEST_F(CheckpointRanks, WhatTheFirstRankDoesNotSeeIsNoCheckpoint) {
  const fs::path older = save(2, true, 5);
  const std::vector<RankFile> files = write_files(2, true, 6);
  fs::resize_file(saving_path(directory_, 6) / rank_file_name(1), 100);
  ErrorDetail error = error_of([&] { commit_checkpoint(directory_, header_of(6), files); });
  EXPECT_EQ(error.kind, ErrorKind::resource);
  EXPECT_EQ(error.seen, "100 bytes");
  fs::remove(saving_path(directory_, 6) / rank_file_name(1));
  error = error_of([&] { commit_checkpoint(directory_, header_of(6), files); });
  EXPECT_NE(error.where.find("rank_0001.h5"), std::string::npos);
  EXPECT_NE(error.next.find("that all ranks share"), std::string::npos);
  EXPECT_EQ(list_checkpoints(directory_), std::vector<int64_t>{5});
  abandon_checkpoint(directory_, 6);
  EXPECT_EQ(names_in(directory_ / "checkpoints"), std::vector<std::string>{"step_00000005"});
}

TEST_F(CheckpointRanks, WhatTheRanksWroteMustBeTheState) {
  const auto error_with = [&](const std::function<void(std::vector<RankFile>&)>& change) {
    std::vector<RankFile> files = write_files(2, true, 6);
    change(files);
    return error_of([&] { commit_checkpoint(directory_, header_of(6), files); });
  };
  const auto piece = [](RankFile& file) -> ManifestPiece& { return file.tensors[0].pieces[0]; };
  for (const ErrorDetail& error : {error_with([&](auto& files) {
                                     piece(files[1]) = {1, piece(files[0]).first, piece(files[0]).count};
                                   }),
                                   error_with([&](auto& files) { files.pop_back(); }),
                                   error_with([&](auto& files) { files[1].tensors.pop_back(); }),
                                   error_with([&](auto& files) { files[1].tensors[0].name = "other"; }),
                                   error_with([&](auto& files) { files[1].tensors[0].rows += 1; })}) {
    EXPECT_EQ(error.kind, ErrorKind::internal);
    EXPECT_EQ(error.what, "what the ranks wrote is not the state");
  }
  EXPECT_TRUE(list_checkpoints(directory_).empty());
}

TEST_F(CheckpointRanks, WhatRanksSayOfTheirFilesIsChecked) {
  for (const char* text : {"", "{}", "[]", R"({"file": {"name": "a", "bytes": -1, "xxh3": ""}, "state": []})",
                           R"({"file": {"name": "a", "bytes": 1, "xxh3": "0123456789abcdef"}})"})
    EXPECT_EQ(error_of([&] { parse_rank_file(text); }).kind, ErrorKind::communication) << text;
}

TEST(TensorElements, ArePackedWhateverThePadding) {
  OwnedTensor owner(DType::f32, 5, 10);
  const Tensor padded = owner.view().slice_cols(2, 7);
  std::vector<float> values(35), packed(35);
  std::iota(values.begin(), values.end(), 1.0f);
  set_elements(padded, 0, Tensor(values.data(), 1, 35));
  EXPECT_EQ(padded.row<float>(4)[6], 35);
  EXPECT_EQ(owner.view().row<float>(1)[1], 0);  // beside the view
  EXPECT_FALSE(view_elements(padded, 3, 20));
  EXPECT_EQ(view_elements(Tensor(values.data(), 5, 7), 3, 20)->as<float>()[0], 4);
  for (int64_t first = 0; first <= 35; ++first)
    for (int64_t count = 0; count <= 35 - first; ++count) {
      get_elements(padded, first, Tensor(packed.data(), 1, count));
      ASSERT_TRUE(std::equal(packed.begin(), packed.begin() + count, values.begin() + first));
    }
  OwnedTensor rounded(DType::bf16, 5, 7);
  set_elements(rounded.view(), 8, Tensor(values.data(), 1, 20));
  EXPECT_EQ(static_cast<float>(rounded.view().row<bf16>(1)[1]), 1.0f);
}

}  // namespace
}  // namespace nibble
