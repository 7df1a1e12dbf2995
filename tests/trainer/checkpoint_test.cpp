#include "trainer/checkpoint.hpp"

#include <fmt/format.h>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <functional>
#include <limits>

#include "tensor/files.hpp"
#include "tests/tensor/temporary_directory.hpp"
#include "trainer/checkpoint_load.hpp"
#include "trainer/checkpoint_save.hpp"
#include "trainer/checkpoint_tuning.hpp"
#include "trainer/run_directory.hpp"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

ModelConfig tiny() {
  return {.vocabulary = 259,
          .width = 8,
          .layers = 1,
          .heads = 2,
          .kv_heads = 1,
          .head_dim = 4,
          .ffn = 12,
          .context = 32,
          .rope_theta = 12345.678,
          .rope_scaling = RopeScaling{.factor = 3.3},
          .norm_epsilon = 1.1e-5,
          .tied = true};
}

/// State of every element type: padded weights, a strided part, scalars.
struct State {
  ParameterLayout layout{tiny()};
  ParameterSet weights{layout, DType::f32, DType::f32, true, "weights"};
  OwnedTensor moments{DType::bf16, 3, 10};
  std::vector<double> doubles{0, 0};
  std::vector<int32_t> integers{0};
  std::vector<uint8_t> codes{0, 0, 0};
  std::vector<uint16_t> words{0};
  int64_t tokens = 0;
  StateList list;

  State() {
    for (size_t i = 0; i < weights.size(); ++i) list.add(weights_prefix + layout.parameters()[i].name, weights[i]);
    list.add("optimizer/moment", moments.view().slice_cols(2, 5));
    list.add("optimizer/doubles", Tensor(doubles.data(), 1, 2));
    list.add("integers", Tensor(integers.data(), 1, 1));
    list.add("codes", Tensor(codes.data(), 3, 1));
    list.add("words", Tensor(words.data(), 1, 1));
    list.add_scalar("tokens", tokens);
  }
  State(const State&) = delete;

  void fill(float start) {
    for (size_t i = 0; i < weights.size(); ++i)
      for (int64_t row = 0; row < weights[i].rows; ++row)
        for (int64_t col = 0; col < weights[i].cols; ++col) weights[i].row<float>(row)[col] = start += 0.37f;
    for (int64_t i = 0; i < 30; ++i) moments.view().as<bf16>()[i] = bf16(static_cast<float>(i) - start);
    // A NaN with a payload, a negative zero: state comes back bit for bit.
    doubles = {std::bit_cast<double>(0x7ff8000000000123u), -0.0};
    integers = {-7};
    codes = {0, 128, 255};
    words = {65535};
    tokens = int64_t{1} << 40;
  }
  /// All bytes of all entries.
  std::string bytes() const {
    std::string all;
    for (const StateList::Entry& entry : list.entries())
      for (int64_t row = 0; row < entry.tensor.rows; ++row) {
        const Tensor part = entry.tensor.slice_rows(row, 1);
        all.append(static_cast<const char*>(part.data), part.bytes());
      }
    return all;
  }
};

CheckpointHeader header_of(int64_t step) {
  return {.step = step,
          .seed = ~uint64_t{0},
          .model = tiny(),
          .tokenizer = make_byte_tokenizer()->info(),
          .data = {{"train", {{"hash", "0123456789abcdef"}, {"tokens", 1000}}}},
          .tuning = {{"isa", "avx2"}, {"threads", 2}, {"libraries", {{"onednn", "2.6.3"}}}},
          .retuned = true,
          .config_text = "model: {width: 8}  # \u00e9\n"};
}

class CheckpointTest : public TemporaryDirectoryTest {
 protected:
  void SetUp() override {
    TemporaryDirectoryTest::SetUp();
    run_ = directory_ / "run";
    state_.fill(0);
  }
  fs::path save(int64_t step) { return save_checkpoint(run_, header_of(step), state_.list); }
  ErrorDetail load_error(const fs::path& checkpoint, StateList& list) {
    return error_of([&] { load_checkpoint(open_checkpoint(checkpoint), list); });
  }
  std::optional<fs::path> newest() {
    refused_.clear();
    const std::optional<VerifiedCheckpoint> found = newest_valid_checkpoint(run_, refused_);
    return found ? std::optional(found->path) : std::nullopt;
  }

  fs::path run_;
  State state_;
  std::vector<RefusedCheckpoint> refused_;
};

TEST_F(CheckpointTest, StateComesBackBitForBit) {
  const fs::path path = save(500);
  EXPECT_EQ(path, run_ / "checkpoints" / "step_00000500");
  EXPECT_EQ(names_in(path), (std::vector<std::string>{"manifest.json", "rank_0000.h5"}));
  State other;
  other.fill(100);
  const bf16 beside = other.moments.view().as<bf16>()[0];
  ASSERT_NE(other.bytes(), state_.bytes());
  load_checkpoint(open_checkpoint(path), other.list);
  EXPECT_EQ(other.bytes(), state_.bytes());
  EXPECT_EQ(other.moments.view().as<bf16>()[0], beside);  // outside the view
}

TEST_F(CheckpointTest, TheHeaderComesBack) {
  const CheckpointHeader saved = header_of(500), loaded = open_checkpoint(save(500)).header();
  EXPECT_EQ(loaded.step, 500);
  EXPECT_EQ(loaded.seed, ~uint64_t{0});
  EXPECT_EQ(loaded.model, tiny());
  EXPECT_EQ(loaded.tokenizer, saved.tokenizer);
  EXPECT_TRUE(loaded.tokenizer_files.empty());
  EXPECT_EQ(loaded.data, saved.data);
  EXPECT_EQ(loaded.tuning, saved.tuning);
  EXPECT_TRUE(loaded.retuned);
  EXPECT_EQ(loaded.config_text, saved.config_text);
}

TEST_F(CheckpointTest, TheTokenizersModelIsAVerifiedFileOfTheCheckpoint) {
  CheckpointHeader header = header_of(500);
  header.tokenizer.identity = "sentencepiece:test";
  header.tokenizer_files = {{sentencepiece_file_name, std::string("model\0bytes", 11)}};
  const fs::path path = save_checkpoint(run_, header, state_.list);
  EXPECT_EQ(names_in(path), (std::vector<std::string>{"manifest.json", "rank_0000.h5", "tokenizer.model"}));
  EXPECT_EQ(open_checkpoint(path).header().tokenizer_files, header.tokenizer_files);
  load_checkpoint(open_checkpoint(path), state_.list);
  set_byte(path / "tokenizer.model", 3, 'x');
  const ErrorDetail error = error_of([&] { open_checkpoint(path); });
  EXPECT_EQ(error.what, "a file of the checkpoint is damaged: its checksum is wrong");
  EXPECT_EQ(newest(), std::nullopt);
  fs::remove(path / "tokenizer.model");
  EXPECT_EQ(error_of([&] { open_checkpoint(path); }).kind, ErrorKind::checkpoint);
}

TEST_F(CheckpointTest, AConfigurationThatIsNotUtf8DoesNotPreventASave) {
  CheckpointHeader header = header_of(1);
  header.config_text = "directory: caf\xe9\n";
  EXPECT_EQ(open_checkpoint(save_checkpoint(run_, header, state_.list)).header().config_text, "directory: caf\ufffd\n");
}

TEST_F(CheckpointTest, TheSameStepIsReplaced) {
  save(500);
  state_.fill(9);
  const fs::path path = save(500);
  State other;
  load_checkpoint(open_checkpoint(path), other.list);
  EXPECT_EQ(other.bytes(), state_.bytes());
  EXPECT_EQ(names_in(run_ / "checkpoints"), std::vector<std::string>{"step_00000500"});
}

TEST_F(CheckpointTest, StateOfAnotherRunIsRefusedAndNothingIsTouched) {
  const fs::path path = save(500);
  State other;
  other.fill(100);
  const std::string before = other.bytes();
  float extra = 0;

  StateList more = other.list;
  more.add_scalar("extra", extra);
  ErrorDetail error = load_error(path, more);
  EXPECT_EQ(error.kind, ErrorKind::checkpoint);
  EXPECT_EQ(error.what, "the checkpoint lacks state that this run needs");
  EXPECT_NE(error.where.find("extra"), std::string::npos);

  const auto change = [&](const std::function<void(StateList&, const StateList::Entry&)>& add) {
    StateList list;
    for (const StateList::Entry& entry : other.list.entries()) {
      if (entry.name == "codes") add(list, entry);
      else list.add(entry.name, entry.tensor);
    }
    return load_error(path, list);
  };
  error = change([](StateList&, const StateList::Entry&) {});
  EXPECT_EQ(error.what, "the checkpoint holds state that this run has no use for");
  EXPECT_NE(error.where.find("codes"), std::string::npos);
  error = change([](StateList& list, const StateList::Entry& entry) {
    list.add(entry.name, Tensor(DType::u8, entry.tensor.data, 1, 3));
  });
  EXPECT_EQ(error.what, "state of another element type or shape");
  EXPECT_EQ(error.seen, "u8 [3, 1]");
  EXPECT_EQ(error.allowed, "u8 [1, 3]");
  uint16_t words[3];
  error = change([&](StateList& list, const StateList::Entry& entry) { list.add(entry.name, Tensor(words, 3, 1)); });
  EXPECT_EQ(error.allowed, "u16 [3, 1]");
  EXPECT_EQ(other.bytes(), before);
}

TEST_F(CheckpointTest, WhatIsNotFiniteIsRefused) {
  const float before = state_.weights[0].row<float>(2)[3];
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    state_.weights[0].row<float>(2)[3] = value;
    const VerifiedCheckpoint checkpoint = open_checkpoint(save(500));
    state_.weights[0].row<float>(2)[3] = before;
    const ParameterInfo& info = state_.layout.parameters()[0];
    for (const bool weights_alone : {false, true}) {
      const ErrorDetail detail = error_of([&] {
        if (weights_alone) load_checkpoint_weights(checkpoint, state_.layout, DType::bf16);
        else load_checkpoint(checkpoint, state_.list);
      });
      EXPECT_EQ(detail.kind, ErrorKind::checkpoint);
      EXPECT_EQ(detail.what, "the state of a checkpoint is not finite");
      EXPECT_EQ(detail.where, fmt::format("{}: {}{}, element {} (row 2, column 3)", checkpoint.path.string(),
                                          weights_prefix, info.name, 2 * info.cols + 3));
      EXPECT_EQ(detail.seen, fmt::format("{}", value));
      EXPECT_NE(detail.next.find("an earlier checkpoint"), std::string::npos);
    }
    state_.fill(0);
  }
  // A moment in bf16, by its bits.
  state_.moments.view().as<bf16>()[5].bits = 0x7f80;
  const ErrorDetail detail = load_error(save(501), state_.list);
  EXPECT_EQ(detail.what, "the state of a checkpoint is not finite");
  EXPECT_EQ(detail.seen, "inf");
}

TEST_F(CheckpointTest, ForeignFoldersAreRefused) {
  EXPECT_EQ(load_error(directory_ / "none", state_.list).kind, ErrorKind::checkpoint);
  EXPECT_EQ(load_error(directory_, state_.list).what, "not a checkpoint: there is no manifest");
  write(directory_ / "manifest.json", "{\"name\": \"a web app\"}");
  EXPECT_EQ(load_error(directory_, state_.list).what, "a field is missing");
  EXPECT_EQ(error_of([&] { open_checkpoint(directory_ / "manifest.json"); }).kind, ErrorKind::checkpoint);
}

TEST_F(CheckpointTest, AnotherSchemaIsRefusedBeforeItsChecksum) {
  const fs::path path = save(500) / "manifest.json";
  const std::string text = read_file(path, ErrorKind::checkpoint), key = "\"schema\": 2";
  for (const auto& [value, next] :
       {std::pair{"3", "update nibble"}, {"0", "resume and save it with the nibble before this one"}}) {
    std::string changed = text;
    changed.replace(changed.find(key), key.size(), std::string("\"schema\": ") + value);
    write(path, changed);
    EXPECT_EQ(load_error(path.parent_path(), state_.list).next, next);
  }
}

TEST_F(CheckpointTest, EveryFlippedByteOfTheManifestIsRefusedOrChangesNothing) {
  const fs::path path = save(500) / "manifest.json";
  const std::string original = read_file(path, ErrorKind::checkpoint);
  int refused = 0;
  for (size_t i = 0; i < original.size(); ++i) {
    set_byte(path, i, static_cast<char>(original[i] ^ (1 << (i % 8))));
    try {
      const CheckpointHeader header = read_manifest(path.parent_path()).header;
      EXPECT_EQ(header.model, tiny()) << "byte " << i;
      EXPECT_EQ(header.config_text, header_of(500).config_text) << "byte " << i;
      EXPECT_EQ(header.tuning, header_of(500).tuning) << "byte " << i;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::checkpoint) << "byte " << i;
      ++refused;
    }
    set_byte(path, i, original[i]);
  }
  // Spaces and line ends may become one another; all else must be seen.
  EXPECT_GT(refused, static_cast<int>(original.size()) / 2);
  for (size_t size = 0; size + 2 < original.size(); size += 97) {
    write(path, std::string_view(original).substr(0, size));
    EXPECT_EQ(load_error(path.parent_path(), state_.list).kind, ErrorKind::checkpoint);
  }
}

TEST_F(CheckpointTest, FlippedBytesOfTheStateAreRefused) {
  const fs::path path = save(500) / "rank_0000.h5";
  const std::string original = read_file(path, ErrorKind::checkpoint), before = state_.bytes();
  for (size_t i = 0; i < original.size(); i += 41) {
    set_byte(path, i, static_cast<char>(original[i] ^ 0x10));
    EXPECT_EQ(load_error(path.parent_path(), state_.list).what,
              "a file of the checkpoint is damaged: its checksum is wrong")
        << "byte " << i;
    set_byte(path, i, original[i]);
  }
  for (const std::string& bytes : {original.substr(0, original.size() - 1), original + "x"}) {
    write(path, bytes);
    EXPECT_EQ(load_error(path.parent_path(), state_.list).what, "a file of the checkpoint has another size");
  }
  write(path, "");
  EXPECT_EQ(load_error(path.parent_path(), state_.list).what, "the file is empty");
  fs::remove(path);
  EXPECT_EQ(load_error(path.parent_path(), state_.list).what, "a file of the checkpoint is missing");
  EXPECT_EQ(state_.bytes(), before);
}

TEST_F(CheckpointTest, AFileOutsideTheFolderIsRefused) {
  const fs::path path = save(500);
  Manifest manifest = read_manifest(path);
  manifest.files.front().name = "../rank_0000.h5";
  write_manifest(path, manifest);
  EXPECT_EQ(load_error(path, state_.list).what, "a file's name cannot be");
}

TEST_F(CheckpointTest, TheSchemaBeforeIsRead) {
  const VerifiedCheckpoint checkpoint =
      open_checkpoint(fs::path(NIBBLE_TEST_DATA) / "trainer/data/checkpoint_schema_1");
  EXPECT_EQ(checkpoint.header().step, 500);
  State other;
  other.fill(100);
  load_checkpoint(checkpoint, other.list);
  EXPECT_EQ(other.bytes(), state_.bytes());
  const ParameterSet weights = load_checkpoint_weights(checkpoint, state_.layout, DType::f32);
  EXPECT_EQ(weights[0].row<float>(3)[4], state_.weights[0].row<float>(3)[4]);
}

// Many checkpoints
// -----------------------------------------------------------------------------------------------------

TEST_F(CheckpointTest, AKilledSaveLeavesTheOlderCheckpointTheNewest) {
  EXPECT_EQ(newest(), std::nullopt);
  const fs::path older = save(500);
  // A save that was killed before, within and after its files of state; the last lacks only the rename.
  const fs::path root = run_ / "checkpoints";
  for (int stage = 0; stage < 4; ++stage) {
    const fs::path leftover = temporary_name(root / "step_00000600");
    fs::create_directories(leftover);
    if (stage > 0) write(leftover / "rank_0000.h5", "half");
    if (stage > 1)
      fs::copy_file(older / "rank_0000.h5", leftover / "rank_0000.h5", fs::copy_options::overwrite_existing);
    if (stage > 2) fs::copy_file(older / "manifest.json", leftover / "manifest.json");
  }
  EXPECT_EQ(newest(), older);
  EXPECT_TRUE(refused_.empty());
  EXPECT_EQ(list_checkpoints(run_), std::vector<int64_t>{500});

  write(root / ".step_notes.txt", "mine");
  save(700);  // cleans up what the killed ones left, and nothing else
  EXPECT_EQ(names_in(root), (std::vector<std::string>{".step_notes.txt", "step_00000500", "step_00000700"}));
}

/// What a child does that saves step 600 while no file may grow beyond `limit` bytes; `ignored`: its writes then fail
/// instead of ending it.
void save_within(const fs::path& run, uint64_t limit, bool ignored) {
  OwnedTensor large(DType::f32, 256, 256);
  StateList list;
  list.add("large", large.view());
  const rlimit size{limit, limit};
  setrlimit(RLIMIT_FSIZE, &size);
  signal(SIGXFSZ, ignored ? SIG_IGN : SIG_DFL);
  try {
    save_checkpoint(run, header_of(600), list);
  } catch (const Error& error) {
    _exit(error.exit_code());
  }
  _exit(0);
}

TEST_F(CheckpointTest, ASaveThatIsEndedHalfwayLeavesTheOlderCheckpointTheNewest) {
  const fs::path older = save(500), root = run_ / "checkpoints";
  for (const uint64_t limit : {10, 5000, 100'000, 262'144}) {
    for (const bool ignored : {false, true}) {
      const pid_t child = fork();
      if (child == 0) save_within(run_, limit, ignored);
      int status = 0;
      ASSERT_EQ(waitpid(child, &status, 0), child);
      if (ignored) {
        ASSERT_TRUE(WIFEXITED(status)) << limit;
        EXPECT_EQ(WEXITSTATUS(status), static_cast<int>(ErrorKind::resource)) << limit;
        EXPECT_EQ(names_in(root).size(), 1u) << limit;  // it cleans up behind itself, and behind the killed one
      } else {
        ASSERT_TRUE(WIFSIGNALED(status)) << limit;
        EXPECT_EQ(names_in(root).size(), 2u) << limit;  // the half-written one, under its temporary name
      }
      EXPECT_EQ(newest(), older) << limit;
      EXPECT_TRUE(refused_.empty()) << limit;
    }
  }
  State other;
  load_checkpoint(open_checkpoint(older), other.list);
  EXPECT_EQ(other.bytes(), state_.bytes());
}

TEST_F(CheckpointTest, DamagedCheckpointsArePassedOverWithTheReason) {
  const fs::path good = save(500), flipped = save(600), cut = save(700), bare = save(800);
  std::string bytes = read_file(flipped / "rank_0000.h5", ErrorKind::data);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  write(flipped / "rank_0000.h5", bytes);
  write(cut / "rank_0000.h5", bytes.substr(0, 100));
  fs::remove(bare / "manifest.json");
  EXPECT_EQ(newest(), good);
  ASSERT_EQ(refused_.size(), 3u);
  EXPECT_EQ(refused_[0].path, bare);
  EXPECT_EQ(refused_[0].reason, "not a checkpoint: there is no manifest");
  EXPECT_EQ(refused_[1].reason, "a file of the checkpoint has another size");
  EXPECT_EQ(refused_[2].reason, "a file of the checkpoint is damaged: its checksum is wrong");
}

TEST_F(CheckpointTest, OldCheckpointsArePruned) {
  for (const int64_t step : {100, 200, 300, 400, 500, 600}) save(step);
  fs::remove(checkpoint_path(run_, 300) / "manifest.json");
  prune_checkpoints(run_, 2, 200);
  EXPECT_EQ(list_checkpoints(run_), (std::vector<int64_t>{200, 300, 400, 500, 600}));  // 300 is damaged
  prune_checkpoints(run_, 1, 0);
  EXPECT_EQ(list_checkpoints(run_), (std::vector<int64_t>{300, 600}));
  prune_checkpoints(run_, 5, 0);
  EXPECT_EQ(list_checkpoints(run_), (std::vector<int64_t>{300, 600}));
  EXPECT_EQ(names_in(run_ / "checkpoints").size(), 2u);
}

TEST_F(CheckpointTest, OnlyStepNamesAreCheckpoints) {
  save(123'456'789);
  for (const char* name : {"step_5", "step_-0000005", "step_00000005x", "step_", "best", "step_99999999999999999999"})
    fs::create_directories(run_ / "checkpoints" / name);
  EXPECT_EQ(list_checkpoints(run_), std::vector<int64_t>{123'456'789});
}

// Weights alone
// --------------------------------------------------------------------------------------------------------

TEST_F(CheckpointTest, WeightsAreReadAloneInEitherElementType) {
  const VerifiedCheckpoint checkpoint = open_checkpoint(save(500));
  const ParameterSet exact = load_checkpoint_weights(checkpoint, state_.layout, DType::f32);
  const ParameterSet rounded = load_checkpoint_weights(checkpoint, state_.layout, DType::bf16);
  for (size_t i = 0; i < exact.size(); ++i)
    for (int64_t row = 0; row < exact[i].rows; ++row)
      for (int64_t col = 0; col < exact[i].cols; ++col) {
        const float expected = state_.weights[i].row<float>(row)[col];
        ASSERT_EQ(exact[i].row<float>(row)[col], expected);
        if (rounded[i].dtype == DType::bf16) ASSERT_EQ(rounded[i].row<bf16>(row)[col], bf16(expected));
        else ASSERT_EQ(rounded[i].row<float>(row)[col], expected);
      }
}

TEST_F(CheckpointTest, WeightsOfAnotherModelAreRefusedBeforeMemoryIsTaken) {
  const VerifiedCheckpoint checkpoint = open_checkpoint(save(500));
  ModelConfig untied = tiny(), wider = tiny();
  untied.tied = false;
  wider.ffn = int64_t{1} << 45;  // no machine has it
  for (const auto& [config, name] : {std::pair{untied, "weights/lm_head.weight"}, {wider, "mlp.gate_proj.weight"}}) {
    const ParameterLayout layout(config);
    const ErrorDetail error = error_of([&] { load_checkpoint_weights(checkpoint, layout, DType::f32); });
    EXPECT_EQ(error.kind, ErrorKind::checkpoint);
    EXPECT_NE(error.where.find(name), std::string::npos) << error.where;
  }
}

// What a user names as MODEL
// -------------------------------------------------------------------------------------------

TEST_F(CheckpointTest, ARunACheckpointAndAFolderAreModels) {
  save(500);
  save(600);
  const LoadedModel newest_model = load_model(run_, DType::f32);
  EXPECT_EQ(newest_model.step, 600);
  EXPECT_EQ(newest_model.config, tiny());
  EXPECT_EQ(newest_model.tokenizer->info().identity, "byte");
  EXPECT_EQ(newest_model.tokens.begin, 256);
  EXPECT_EQ(newest_model.tokens.ends, std::vector<int64_t>{257});
  EXPECT_EQ(newest_model.weights[0].row<float>(3)[4], state_.weights[0].row<float>(3)[4]);

  const LoadedModel older = load_model(run_ / "checkpoints" / "step_00000500", DType::bf16);
  EXPECT_EQ(older.step, 500);
  EXPECT_EQ(older.weights[0].dtype, DType::bf16);

  fs::remove(checkpoint_path(run_, 600) / "manifest.json");
  const LoadedModel fallback = load_model(run_, DType::f32);
  EXPECT_EQ(fallback.step, 500);
  EXPECT_EQ(fallback.source.refused.size(), 1u);

  const LoadedModel reference = load_model(fs::path(NIBBLE_TEST_DATA) / "model/data/llama/gqa-tied", DType::bf16);
  EXPECT_FALSE(reference.source.checkpoint);
  EXPECT_EQ(reference.config.kv_heads, 2);
  EXPECT_EQ(reference.tokenizer, nullptr);
  EXPECT_EQ(reference.tokenizer_problem, "the folder holds no tokenizer");
  EXPECT_EQ(reference.tokens.ends, std::vector<int64_t>{2});
}

TEST_F(CheckpointTest, WhatIsNoModelIsRefused) {
  EXPECT_EQ(error_of([&] { find_model(directory_ / "none"); }).what, "there is no such model");
  EXPECT_EQ(error_of([&] { find_model(directory_); }).what, "the folder holds no model");
  write(directory_ / "file", "x");
  EXPECT_EQ(error_of([&] { find_model(directory_ / "file"); }).what, "a model is a folder");
  fs::create_directories(run_ / "checkpoints");
  EXPECT_EQ(error_of([&] { find_model(run_); }).seen, "none was saved");
  fs::remove(save(500) / "manifest.json");
  EXPECT_NE(error_of([&] { find_model(run_); }).seen.find("step_00000500"), std::string::npos);
}

TEST_F(CheckpointTest, AnotherTokenizerIsRefused) {
  CheckpointHeader header = header_of(500);
  header.tokenizer.hash ^= 1;
  save_checkpoint(run_, header, state_.list);
  EXPECT_EQ(error_of([&] { load_model(run_, DType::f32); }).what,
            "the tokenizer is not the one that the model was trained with");
}

TEST_F(CheckpointTest, WithoutAUsableTokenizerTheModelIsStillLoaded) {
  CheckpointHeader header = header_of(500);
  header.tokenizer.identity = "llm.c:gpt2";  // nothing of that tokenizer is stored anywhere
  save_checkpoint(run_, header, state_.list);
  const LoadedModel model = load_model(run_, DType::f32);
  EXPECT_EQ(model.tokenizer, nullptr);
  EXPECT_EQ(model.tokenizer_problem, "the checkpoint holds no model of the tokenizer llm.c:gpt2");

  const fs::path folder = directory_ / "llama-3";
  fs::copy(fs::path(NIBBLE_TEST_DATA) / "model/data/llama/gqa-tied", folder);
  write(folder / "tokenizer.model", "IQ== 0\nIg== 1\nIw== 2\nJA== 3\n");  // ranks in base64, as Llama 3's
  const LoadedModel foreign = load_model(folder, DType::bf16);
  EXPECT_EQ(foreign.tokenizer, nullptr);
  EXPECT_NE(foreign.tokenizer_problem.find("tokenizer.model: "), std::string::npos) << foreign.tokenizer_problem;
}

TEST_F(CheckpointTest, ACopiedCheckpointBringsItsTokenizer) {
  CheckpointHeader header = header_of(500);
  const auto tokenizer = make_tokenizer(std::string(NIBBLE_TEST_DATA) + "/data/data/small.model");
  header.tokenizer_files = tokenizer->files();
  header.tokenizer = tokenizer->info();
  fs::copy(save_checkpoint(run_, header, state_.list), directory_ / "copied");
  const LoadedModel copied = load_model(directory_ / "copied", DType::f32);
  ASSERT_TRUE(copied.tokenizer);
  EXPECT_EQ(copied.tokenizer->info(), header.tokenizer);
  EXPECT_EQ(copied.tokenizer->files(), header.tokenizer_files);
  EXPECT_EQ(copied.tokenizer_problem, "");
}

TEST_F(CheckpointTest, ATokenizerMayBeSeveralFilesInTheirOrder) {
  CheckpointHeader header = header_of(500);
  header.tokenizer.identity = "huggingface:test";
  header.tokenizer_files = {{"tokenizer.json", "{}"}, {"special_tokens_map.json", "{ }"}};
  const fs::path path = save_checkpoint(run_, header, state_.list);
  EXPECT_EQ(open_checkpoint(path).header().tokenizer_files, header.tokenizer_files);
  const auto refused = [&](std::vector<TokenizerFile> files) {
    header.tokenizer_files = std::move(files);
    return error_of([&] { open_checkpoint(save_checkpoint(run_, header, state_.list)); }).what;
  };
  const std::string what = "a file's name cannot be";
  EXPECT_EQ(refused({{"special_tokens_map.json", "{}"}}), what);
  EXPECT_EQ(refused({{"tokenizer.json", "{}"}, {"special_tokens_map.json", ""}, {"tokenizer_config.json", ""}}), what);
  EXPECT_EQ(refused({{"tokenizer.json", "{}"}, {"tokenizer.json", "{}"}}), what);
  EXPECT_EQ(refused({{"tokenizer.model", "{}"}}), what);
}

// Tuning
// -----------------------------------------------------------------------------------------------------------------

TEST(Tuning, ADifferenceIsRefusedUnlessAccepted) {
  const json saved = {{"isa", "avx2"}, {"threads", 2}, {"libraries", {{"onednn", "2.6.3"}}}};
  EXPECT_FALSE(check_tuning(saved, saved, false));
  EXPECT_FALSE(check_tuning(saved, saved, true));
  json current = saved;
  current["threads"] = 4;
  current["libraries"]["onednn"] = "3.1.0";
  current["gemm"] = "amx";
  EXPECT_TRUE(check_tuning(saved, current, true));
  const ErrorDetail error = error_of([&] { check_tuning(saved, current, false); });
  EXPECT_EQ(error.kind, ErrorKind::configuration);
  EXPECT_EQ(error.seen, "gemm \"amx\", libraries/onednn \"3.1.0\", threads 4");
  EXPECT_EQ(error.allowed, "gemm none, libraries/onednn \"2.6.3\", threads 2, as the checkpoint recorded");
  EXPECT_NE(error.next.find("--retune"), std::string::npos);
  EXPECT_THROW(check_tuning(json::object(), current, false), Error);
}

}  // namespace
}  // namespace nibble
