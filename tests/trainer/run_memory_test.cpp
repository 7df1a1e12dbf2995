// The foreseen memory of a run: its rows, computed by hand and held to the ledger; and runs that are refused for it.
#include "trainer/run_memory.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "comm/local_world.hpp"
#include "data/tokenize.hpp"
#include "tensor/files.hpp"
#include "tensor/imagined_device.hpp"
#include "tests/tensor/temporary_directory.hpp"
#include "tests/trainer/expect_error.hpp"
#include "trainer/resolve.hpp"
#include "trainer/training_run.hpp"
#include "trainer/yaml_settings.hpp"

namespace nibble {
namespace {

constexpr size_t mebibyte = size_t{1} << 20;

class RunMemoryTest : public TemporaryDirectoryTest {
 protected:
  void SetUp() override {
    TemporaryDirectoryTest::SetUp();
    write(directory_ / "text.txt", std::string(3000, 'x'));
    tokenize({.inputs = {path("text.txt")}, .output = path("train.h5")}, *make_byte_tokenizer());
  }
  std::string path(const std::string& name) const { return (directory_ / name).string(); }

  /// 51312 parameters; rows of bf16 are padded.
  Settings settings(const std::vector<std::string>& overrides = {}) const {
    return parse_settings(
        "model: {width: 48, layers: 2, heads: 3, ffn: 80, vocab: 300}\n"
        "data: {train: " +
            path("train.h5") +
            ", sequence: 32}\n"
            "batch: {tokens: 256, micro: 2, lanes: 4}\n"
            "steps: 2\n"
            "run: {directory: " +
            path("run") + ", threads: 2}\n",
        "test.yaml", overrides);
  }
  static RunMemory foresee(const Settings& settings, size_t resident = 0) {
    Stream stream(2);
    return foresee_memory(stream, *make_local_world(), settings, model_config(settings, 257), resident);
  }
  /// A run on a machine that has so much beyond what this process holds.
  void run_with(const Settings& settings, size_t bytes, bool resume = false) const {
    TrainingRun(settings, {.resume = resume, .memory = [&] { return AvailableMemory{bytes, "the test"}; }}).run();
  }
};

TEST_F(RunMemoryTest, RowsByHand) {
  const RunMemory memory = foresee(settings());
  // Two matrices of 300 x 48, five gains, and in each of two blocks 144 x 48, 48 x 48, 160 x 48, 48 x 80.
  constexpr size_t parameters = 2 * 300 * 48 + 5 * 48 + 2 * (144 * 48 + 48 * 48 + 160 * 48 + 48 * 80);
  EXPECT_EQ(memory.table.at("master weights"), 4 * parameters);
  EXPECT_EQ(memory.table.at("optimizer moments"), 8 * parameters);
  EXPECT_EQ(memory.table.at("gradients"), 3 * 4 * parameters) << "four lanes of one micro-batch: 1 + log2(4) slots";
  // Rows of 48 and 80 bf16 take 128 and 192 bytes; gains are f32.
  EXPECT_EQ(memory.table.at("weights"), (2 * 300 + 2 * (144 + 48 + 160)) * 128 + 2 * 48 * 192 + 5 * 4 * 48u);
  EXPECT_GE(memory.table.at("checkpoint snapshot"), 12 * parameters) << "weights and moments";
  EXPECT_LE(memory.table.at("checkpoint snapshot"), 12 * parameters + 64 * alignment);
  EXPECT_EQ(memory.table.at("RoPE table"), 2 * 4 * 32 * 8u);
  EXPECT_EQ(memory.table.at("batches"), 4 * 3 * 4 * 256u) << "two ready, one in the making, one in use; three arrays";
  EXPECT_EQ(memory.token_files, std::filesystem::file_size(path("train.h5")));
  EXPECT_EQ(memory.peak(), total(memory.table) + memory.token_files);
}

TEST_F(RunMemoryTest, FollowsTheSettings) {
  const auto row = [&](const std::string& purpose, const std::vector<std::string>& overrides) {
    return foresee(settings(overrides)).table.at(purpose);
  };
  const size_t whole = row("gradients", {}) / 3;
  EXPECT_EQ(row("gradients", {"batch.lanes=1"}), 2 * whole - 4 * 300 * 48)
      << "the sum, and a micro-batch that is added to it, whose head lies where its embedding will";
  EXPECT_LT(row("activations", {"model.recompute=block"}), row("activations", {}));
  EXPECT_LT(row("activations", {"batch.micro=1"}), row("activations", {}));
  EXPECT_EQ(row("batches", {"batch.tokens=512"}), 2 * row("batches", {}));
  EXPECT_FALSE(foresee(settings({"run.checkpoint.background=false"})).table.contains("checkpoint snapshot"));
  const size_t file = std::filesystem::file_size(path("train.h5")),
               program = foresee(settings()).table.at("program and libraries");
  EXPECT_EQ(foresee(settings(), file + mebibyte).table.at("program and libraries"), program + mebibyte);
}

TEST_F(RunMemoryTest, WeightsGatheredAsCodesByHand) {
  const std::vector<std::string> sharded = {"shard=parameters", "precision.recipe=halo1-fp6",
                                            "precision.keep_bf16.last=1", "weights.gather=codes"};
  const MemoryTable codes = foresee(settings(sharded)).table;
  // One rank owns all rows of the first block's codes: 6 bits an element, and at most a cache line for each of seven
  // matrices.
  constexpr size_t coded = (144 * 48 + 48 * 48 + 160 * 48 + 48 * 80) * 6 / 8;
  EXPECT_GE(codes.at("weights as codes"), coded);
  EXPECT_LE(codes.at("weights as codes"), coded + 7 * alignment);
  // In turn with the others: rows of 36 and 60 bytes of codes take a cache line each. The second block is bf16.
  const size_t norms = 4 * 5 * 48, block = (144 + 48 + 160) * 128 + 48 * 192, in_turn = 300 * 128 + block;
  const size_t own = 2 * (2 * 300 * 48 + 2 * (144 * 48 + 48 * 48 + 160 * 48 + 48 * 80)) + norms;
  EXPECT_GE(codes.at("weights"), own + in_turn + (144 + 48 + 160 + 48) * 64 + norms);
  EXPECT_LE(codes.at("weights"), own + in_turn + (144 + 48 + 160 + 48) * 64 + norms + 64 * alignment);

  const MemoryTable before = held_memory();
  TrainingRun run(settings(sharded), {});
  EXPECT_EQ(run.run(), TrainingRun::Outcome::finished);
  const MemoryTable held = held_memory_since(before);
  for (const char* row : {"weights", "weights as codes", "activations", "master weights"})
    EXPECT_EQ(held.at(row), codes.at(row)) << row;
}

TEST_F(RunMemoryTest, MuonByHand) {
  const MemoryTable table = foresee(settings({"optimizer.name=muon"})).table;
  constexpr size_t projections = 2 * (144 * 48 + 48 * 48 + 160 * 48 + 48 * 80), others = 2 * 300 * 48 + 5 * 48;
  EXPECT_EQ(table.at("optimizer moments"), 4 * projections + 8 * others);
  // Directions of all in bf16, which one wave has; and of each thread, for the largest ones, 80 x 48 and 48 x 80, the
  // iteration's own copy of 48 rows in f32 and bf16, the products of 48 x 48 in f32, twice, and bf16.
  const size_t iteration = 48 * (4 * 80 + 2 * 96) + 48 * (2 * 4 * 48 + 2 * 64u);
  EXPECT_EQ(table.at("matrix updates"), 2 * projections + 2 * iteration);
  EXPECT_GT(table.at("GEMM scratch"), foresee(settings()).table.at("GEMM scratch"));
}

TEST_F(RunMemoryTest, SoapAndShampooByHand) {
  constexpr size_t projections = 2 * (144 * 48 + 48 * 48 + 160 * 48 + 48 * 80), others = 2 * 300 * 48 + 5 * 48,
                   squares = 2 * (8 * 48 * 48 + 3 * (48 * 48 + 80 * 80));
  for (const char* how : {"optimizer.name=soap", "optimizer.name=shampoo"}) {
    const MemoryTable table = foresee(settings({how})).table;
    EXPECT_EQ(table.at("optimizer moments"), 4 * (2 * projections + 2 * squares) + 8 * others) << how;
    // All gradients, which one wave has; of each thread two matrices as large as the largest, and one of its longest
    // side.
    EXPECT_EQ(table.at("matrix updates"), 4 * projections + 2 * 4 * (2 * 80 * 48 + 80 * 80)) << how;
    EXPECT_GT(table.at("GEMM scratch"), foresee(settings()).table.at("GEMM scratch")) << how;
  }
}

TEST_F(RunMemoryTest, MomentsByHand) {
  const auto moments = [&](std::vector<std::string> overrides) {
    overrides.push_back("model.ffn=96");
    return foresee(settings(overrides)).table.at("optimizer moments");
  };
  constexpr size_t embedding = 300 * 48, gains = 5 * 48, ffn = 2 * 3 * 96 * 48, attention = 2 * (144 + 48) * 48;
  EXPECT_EQ(moments({"optimizer.moments=bf16"}), 4 * (2 * embedding + gains + ffn + attention) + 2 * 5 * 32)
      << "each moment of a gain ends half a cache line early";
  // Matrices of 48 x 48 have fewer than 4096 elements. Blocks of 256: 57 of the head, 18 of each FFN matrix; their
  // scales take whole cache lines.
  constexpr size_t scales = 256 + 2 * 3 * 128;
  EXPECT_EQ(moments({"optimizer.moments=8-bit"}), 8 * (embedding + gains + attention) + 2 * (embedding + ffn + scales));
  EXPECT_EQ(
      moments({"optimizer.moments=8-bit", "optimizer.groups=[{match: model.embed_tokens.weight, moments: 8-bit}]"}),
      8 * (gains + attention) + 2 * (2 * embedding + ffn + scales + 256));
  // Blocks of 64: 72 of each FFN matrix.
  EXPECT_EQ(moments({"optimizer.moments=8-bit", "optimizer.name=muon"}),
            4 * attention + ffn + 2 * 3 * 320 + 8 * (embedding + gains) + 2 * (embedding + 256));
}

TEST_F(RunMemoryTest, IsWhatARunHolds) {
  for (const char* how : {"model.recompute=none", "model.recompute=block", "optimizer.name=normuon",
                          "optimizer.name=soap", "optimizer.name=shampoo", "optimizer.moments=8-bit"}) {
    const std::string recompute = how;
    const MemoryTable before = held_memory();
    TrainingRun run(settings({recompute, "run.directory=" + path(recompute)}), {});
    const auto without_products = [&] {
      MemoryTable held = held_memory_since(before);
      for (const char* scratch : {"GEMM scratch", "widened GEMM operands", "GEMM blocks"}) held.erase(scratch);
      return held;
    };
    MemoryTable foreseen;
    const nlohmann::json recorded = nlohmann::json::parse(read_file(path(recompute) + "/memory.json", ErrorKind::data));
    for (const auto& [purpose, bytes] : recorded["rows"].items()) foreseen[purpose] = bytes.get<size_t>();
    EXPECT_EQ(recorded["peak"].get<size_t>(), total(foreseen) + recorded["token_files"].get<size_t>());
    const size_t scratch = foreseen.at("GEMM scratch");
    for (const char* no_part : {"GEMM scratch", "batches", "program and libraries"}) foreseen.erase(no_part);
    EXPECT_EQ(without_products(), foreseen);

    EXPECT_EQ(run.run(), TrainingRun::Outcome::finished);
    MemoryTable held = held_memory_since(before);
    EXPECT_LE(held["GEMM scratch"] + held["widened GEMM operands"] + held["GEMM blocks"], scratch);
    EXPECT_EQ(without_products(), foreseen) << "a step took memory that nobody foresaw";
  }
}

TEST_F(RunMemoryTest, ActivationsOfRecipesAreWhatARunHolds) {
  const std::vector<std::string> wide = {"model.ffn=256", "model.heads=4", "data.sequence=64"};
  const auto activations = [&](const std::string& recipe, bool held, const char* width = "model.width=128") {
    std::vector<std::string> overrides = wide;
    overrides.push_back(width);
    overrides.push_back("precision.recipe=" + recipe);
    overrides.push_back("run.directory=" + path(recipe));
    if (!held) return foresee(settings(overrides)).table.at("activations");
    const MemoryTable before = held_memory();
    const TrainingRun run(settings(overrides), {});
    return held_memory_since(before).at("activations");
  };
  for (const char* recipe : {"bf16", "fp8", "quartet2", "quest-w4a4"})
    EXPECT_EQ(activations(recipe, true), activations(recipe, false)) << recipe;
  const auto wider = [&](const char* recipe) { return activations(recipe, false, "model.width=512"); };
  EXPECT_LT(wider("fp8"), wider("bf16")) << "saved inputs are packed";
  EXPECT_LT(wider("quartet2"), wider("fp8"));
}

TEST_F(RunMemoryTest, OfTheWayThatTheLinksChoose) {
  const auto table = [&](double dense, double sparse) {
    Stream stream(2);
    const Settings run = settings({"gradients.exchange=sparcml", "gradients.density=1%"});
    const LinkCost link{.latency = 0, .per_byte = 1, .computing = {dense, sparse, sparse, sparse}};
    return foresee_memory(stream, *make_local_world(make_imagined_communicator(0, 4)), run, model_config(run, 257), 0,
                          link)
        .table;
  };
  EXPECT_TRUE(table(1e6, 1).contains("error feedback"));
  EXPECT_FALSE(table(1, 1e6).contains("error feedback"));
}

// This program has no code for devices at all.
TEST_F(RunMemoryTest, OfAGpuThatIsImagined) {
  const auto on_gpu = [&](std::vector<std::string> overrides, int architecture) {
    overrides.insert(overrides.begin(), {"run.device=cuda", "model.width=64", "model.heads=4", "model.ffn=96"});
    const ImaginedDevice imagined(architecture);
    Stream stream(2, Place::device);
    const Settings run = settings(overrides);
    return foresee_memory(stream, *make_local_world(), run, model_config(run, 257), 0);
  };
  constexpr size_t parameters = 2 * 300 * 64 + 5 * 64 + 2 * (192 * 64 + 64 * 64 + 192 * 64 + 64 * 96);
  const size_t resident = resident_memory().anonymous;
  const MemoryTable before = held_memory(Place::device);
  const RunMemory bf16 = on_gpu({}, 90);
  EXPECT_EQ(bf16.gpu.at("master weights"), 4 * parameters);
  EXPECT_EQ(bf16.gpu.at("optimizer moments"), 8 * parameters);
  EXPECT_EQ(bf16.gpu.at("gradients"), 3 * 4 * parameters);
  EXPECT_EQ(bf16.gpu.at("weights"), 2 * (parameters - 5 * 64) + 4 * 5 * 64);
  EXPECT_FALSE(bf16.table.contains("master weights"));
  EXPECT_EQ(bf16.table.at("state of the device"), 12 * parameters) << "what a checkpoint is copied through";
  const RunMemory offloaded = on_gpu({"optimizer.offload=masters"}, 90);
  EXPECT_FALSE(offloaded.gpu.contains("master weights"));
  EXPECT_FALSE(offloaded.gpu.contains("optimizer moments"));
  EXPECT_EQ(offloaded.table.at("pinned master weights"), 4 * parameters);
  EXPECT_EQ(offloaded.table.at("pinned optimizer moments"), 8 * parameters);
  EXPECT_FALSE(offloaded.table.contains("state of the device"));
  EXPECT_EQ(offloaded.gpu.at("portions of offloaded state"), 12 * parameters + 4 * parameters)
      << "one portion for the update, and one for the first rounding";
  for (const char* recipe : {"fp8", "mxfp8", "nvfp4-nvidia", "ste-w4a4", "halo0-int8"})
    for (const int architecture : {90, 100}) {
      const RunMemory memory = on_gpu({std::string("precision.recipe=") + recipe}, architecture);
      EXPECT_EQ(memory.gpu.at("master weights"), 4 * parameters) << recipe;
      EXPECT_NE(memory.gpu.at("activations"), bf16.gpu.at("activations")) << recipe;
    }
  for (const char* name : {"soap", "shampoo"})
    EXPECT_GT(on_gpu({std::string("optimizer.name=") + name}, 90).table.at("matrix updates"), 2 * 4 * 96 * 96u)
        << name << ": the host decomposes its factors";
  // What exchanges remember of a step that counts and of the one that is made: residuals; estimates, of the rank and of
  // the sum; MARINA's gradient of the step before.
  const auto with_exchange = [&](const char* exchange, const char* codec) {
    return on_gpu({std::string("gradients.exchange=") + exchange, std::string("gradients.codec=") + codec}, 90);
  };
  const RunMemory feedback = with_exchange("quantized", "fp8-nearest"), ef21 = with_exchange("ef21", "maxmin-4"),
                  marina = with_exchange("marina", "permutation");
  EXPECT_EQ(feedback.gpu.at("error feedback"), 2 * 4 * parameters);
  EXPECT_EQ(feedback.table.at("state of the device"), (12 + 4) * parameters);
  EXPECT_EQ(ef21.gpu.at("gradient estimates"), 2 * 2 * 4 * parameters);
  EXPECT_EQ(ef21.table.at("state of the device"), (12 + 2 * 4) * parameters);
  EXPECT_GE(marina.gpu.at("gradient estimates"), 3 * 4 * parameters);
  for (const RunMemory& memory : {feedback, ef21, marina}) {
    EXPECT_FALSE(memory.table.contains("error feedback"));
    EXPECT_FALSE(memory.table.contains("gradient estimates"));
  }
  EXPECT_EQ(held_memory(Place::device), before);
  EXPECT_LT(resident_memory().anonymous, resident + 32 * mebibyte);
}

TEST_F(RunMemoryTest, TooLargeARunIsRefusedBeforeAnythingIsWritten) {
  const Settings large = settings({"model.width=3072", "model.ffn=8192", "model.layers=28", "model.heads=24"});
  const size_t before = resident_memory().peak;
  expect_error(ErrorKind::resource,
               {"the run needs more memory than there is", "optimizer moments 2", "gradients", "master weights",
                "the test", "model.recompute=block takes", "batch.lanes=1 takes", "choose a smaller model"},
               [&] { run_with(large, 1024 * mebibyte); });
  // Tens of gibibytes are weighed, once for each remedy too, without being touched. A sanitizer keeps what small parts
  // took.
  EXPECT_LT(resident_memory().peak, before + 512 * mebibyte);
  EXPECT_FALSE(std::filesystem::exists(path("run")));
}

TEST_F(RunMemoryTest, TheAdviceFits) {
  const Settings wide = settings({"batch.micro=64", "batch.tokens=8192", "model.ffn=4096"});
  const Settings kept = settings({"batch.micro=64", "batch.tokens=8192", "model.ffn=4096",
                                  "run.checkpoint.background=false", "model.recompute=block"});
  // A process that holds no memory itself, so that the sum alone decides.
  Stream stream(2);
  const auto weigh = [&](const Settings& tried, size_t most) {
    return require_memory(stream, *make_local_world(), tried, model_config(tried, 257), 0, {most, "the test"}, false);
  };
  const size_t needed = total(foresee(wide).table), less = total(foresee(kept).table);
  ASSERT_LT(less, needed);
  EXPECT_EQ(weigh(wide, needed).table, foresee(wide).table);
  expect_error(
      ErrorKind::resource,
      {"next:    run.checkpoint.background=false takes ", "; with model.recompute=block takes " + format_bytes(less)},
      [&] { weigh(wide, less); });
  EXPECT_NO_THROW(weigh(kept, less));
  expect_error(ErrorKind::resource, {"; with batch.micro=1 and batch.lanes=1 takes "}, [&] { weigh(kept, less / 2); });
}

TEST_F(RunMemoryTest, ABatchBeyondMemoryIsRefusedBeforeItsListIsMade) {
  expect_error(ErrorKind::resource, {"batches", "lower batch.tokens or data.sequence"},
               [&] { run_with(settings({"batch.tokens=" + std::to_string(int64_t{1} << 40)}), 1024 * mebibyte); });
}

TEST_F(RunMemoryTest, AResumedRunIsToldOnlyWhatItMayChange) {
  Stream stream(2);
  const auto next = [&](bool resumed) {
    return error_of([&] {
             require_memory(stream, *make_local_world(), settings(), model_config(settings(), 257), 0,
                            {mebibyte, "the test"}, resumed);
           })
        .next;
  };
  EXPECT_NE(next(false).find("batch.lanes=1"), std::string::npos);
  EXPECT_NE(next(true).find("model.recompute=block"), std::string::npos);
  EXPECT_EQ(next(true).find("batch."), std::string::npos);
}

}  // namespace
}  // namespace nibble
