// Whole runs on a small file: learning, resume to the last bit, identity, divergence, fine-tuning.
#include "trainer/training_run.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "comm/local_world.hpp"
#include "data/tokenize.hpp"
#include "model/decoder.hpp"
#include "tests/trainer/expect_error.hpp"
#include "tests/trainer/small_run.hpp"
#include "trainer/evaluation.hpp"
#include "trainer/generation.hpp"
#include "trainer/resolve.hpp"
#include "trainer/run_directory.hpp"
#include "trainer/run_parts.hpp"
#include "trainer/yaml_settings.hpp"

namespace nibble {
namespace {

using test::interrupted_in, test::poisoned, test::scripted, test::ScriptedExchange;

class TrainingRunTest : public test::SmallRunTest {};

TEST_F(TrainingRunTest, LearnsAndLeavesARunBehind) {
  TrainingRun run(settings("a", {"steps=60"}), {});
  EXPECT_EQ(run.run(), TrainingRun::Outcome::finished);
  const std::vector<std::string> lines = rows("a");
  ASSERT_EQ(lines.size(), 61u);  // validation before the first step, then a row for each
  std::ifstream file(path("a") + "/metrics.jsonl");
  std::string first, line, last;
  std::getline(file, first);
  while (std::getline(file, line)) last = line;
  EXPECT_LT(nlohmann::json::parse(last)["validation_loss"].get<double>(),
            nlohmann::json::parse(first)["validation_loss"].get<double>() - 1.5);
  for (const char* name : {"config.yaml", "metrics.csv", "tuning.json", "checkpoints/step_00000060/manifest.json"})
    EXPECT_TRUE(std::filesystem::exists(directory_ / "a" / name)) << name;
  EXPECT_EQ(load_settings(path("a") + "/config.yaml"), settings("a", {"steps=60"}));
}

TEST_F(TrainingRunTest, ResumedIsBitIdenticalToUninterrupted) {
  for (const std::string recipe : {"fp32", "bf16", "fp8-delayed", "nvfp4-nvidia", "lsq-w4a4"})
    for (const std::string recompute : {"none", "block"}) {
      const std::vector<std::string> overrides = {"precision.recipe=" + recipe, "model.recompute=" + recompute};
      const std::string name = recipe + recompute;
      TrainingRun(settings(name + "whole", overrides),
                  scripted(poisoned(NAN, 0, [](int64_t step) { return step == 3; })))
          .run();
      ScriptedExchange::Script script = interrupted_in(6);
      script.on_begin =
          poisoned(NAN, 0, [](int64_t step) { return step == 3; }).on_begin;  // updates and steps then differ
      {
        TrainingRun interrupted(settings(name + "cut", overrides), scripted(script));
        EXPECT_EQ(interrupted.run(), TrainingRun::Outcome::interrupted);
        EXPECT_EQ(interrupted.step(), 7) << "the step that was under way is finished";
      }
      TrainingRun resumed(settings(name + "cut", overrides), {.resume = true});
      EXPECT_EQ(resumed.step(), 7);
      EXPECT_EQ(resumed.run(), TrainingRun::Outcome::finished);
      EXPECT_EQ(rows(name + "cut"), rows(name + "whole"));
      const LoadedModel cut = load_model(path(name + "cut"), DType::f32),
                        whole = load_model(path(name + "whole"), DType::f32);
      for (size_t i = 0; i < cut.weights.size(); ++i)
        for (int64_t r = 0; r < cut.weights[i].rows; ++r)
          ASSERT_EQ(std::memcmp(cut.weights[i].row<float>(r), whole.weights[i].row<float>(r),
                                static_cast<size_t>(cut.weights[i].cols) * 4),
                    0);
    }
}

TEST_F(TrainingRunTest, MomentsInFewerBitsAreResumed) {
  for (const std::string optimizer : {"adamw", "ademamix", "sgd", "normuon", "mars-m"})
    for (const std::string moments : {"bf16", "8-bit"}) {
      const std::string name = optimizer + moments;
      const std::vector<std::string> overrides = {"optimizer.name=" + optimizer, "optimizer.moments=" + moments,
                                                  "model.width=64", "model.ffn=128"};
      TrainingRun(settings(name + "whole", overrides), {}).run();
      EXPECT_EQ(TrainingRun(settings(name + "cut", overrides), scripted(interrupted_in(6))).run(),
                TrainingRun::Outcome::interrupted);
      EXPECT_EQ(TrainingRun(settings(name + "cut", overrides), {.resume = true}).run(), TrainingRun::Outcome::finished);
      EXPECT_EQ(rows(name + "cut"), rows(name + "whole")) << name;
    }
}

// Phases: what a step, its validation and the model that is read afterwards multiply is what holds at that step.
TEST_F(TrainingRunTest, ARecipeThatChangesOnItsWayIsResumedAndEvaluatedAsItWas) {
  const std::vector<std::string> phases = {
      "precision.recipe=fp8-delayed",
      "precision.overrides=[{phase: 0 to 50%, recipe: bf16}, {phase: last 1, forward: bf16}]"};
  TrainingRun(settings("whole", phases), {}).run();
  {
    TrainingRun interrupted(settings("cut", phases), scripted(interrupted_in(7)));
    EXPECT_EQ(interrupted.run(), TrainingRun::Outcome::interrupted);
  }
  TrainingRun(settings("cut", phases), {.resume = true}).run();
  EXPECT_EQ(rows("cut"), rows("whole"));
  TrainingRun(settings("bf16"), {}).run();
  EXPECT_EQ(rows("bf16")[6], rows("whole")[6]) << "half of the steps multiply bf16";
  EXPECT_NE(rows("bf16")[8], rows("whole")[8]);
  EXPECT_EQ(precision_for(find_model(path("whole")), "").recipe().name, "fp8-delayed");
  EXPECT_EQ(precision_for(find_model(path("whole")), "").phases(0, Projection::qkv).at(0).recipe.name,
            "bf16+fp8-delayed");
  EXPECT_EQ(precision_for(find_model(path("whole") + "/checkpoints/step_00000008"), "")
                .phases(0, Projection::qkv)
                .at(0)
                .recipe.name,
            "fp8-delayed");
}

// Learned steps are parameters: they begin where LSQ says on the first batch, and a checkpoint has them.
TEST_F(TrainingRunTest, StepsOfQuantizersAreLearnedAndEvaluated) {
  const std::vector<std::string> lsq = {"precision.recipe=lsq-w4a4", "steps=60", "run.checkpoint.keep_every=4"};
  TrainingRun(settings("a", lsq), {}).run();
  const auto steps_at = [&](const std::string& checkpoint) {
    const LoadedModel model = load_model(path("a") + "/checkpoints/" + checkpoint, DType::bf16, true);
    const float* values = model.weights.buffer(model.layout.steps(1)).as<float>();
    return std::vector(values, values + 8);
  };
  const std::vector<float> early = steps_at("step_00000004"), late = steps_at("step_00000060");
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_NE(early[i], late[i]) << i;
    EXPECT_LT(early[i], 1) << "4 bits of values with deviations of 1 and less";
    EXPECT_GT(late[i], -9);
  }
  // The gains are still near 1: the input of qkv has a mean magnitude near that of normal values.
  EXPECT_NEAR(early[0], std::log(2 * 0.798 / std::sqrt(7.5)), 0.2);

  const auto validation = [&](const std::string& row) { return std::stod(row.substr(row.rfind(' '))); };
  EXPECT_LT(validation(rows("a").back()), validation(rows("a").front()) - 1);
  Stream stream(2);
  const LoadedModel trained = load_model(path("a"), DType::bf16, true);
  const TokenData data = TokenData::open(path("train.h5"));
  const Loader loader(data, {.sequence = 32});
  Llama model(stream, trained.config, find_recipe("lsq-w4a4"), {.sequences = 2, .length = 32, .training = false});
  EXPECT_EQ(evaluate(model, trained.weights, loader, 256, *make_local_world()).loss(), validation(rows("a").back()));
  const ModelSource source = find_model(path("a"));
  Decoder decoder(stream, trained.config, precision_for(source, ""), trained.weights, 32);
  const std::vector<int32_t> ids = {'l', 'i', 'n', 'e'};
  const std::span<const float> logits = decoder.read(ids);
  EXPECT_EQ(std::ranges::max_element(logits) - logits.begin(), ' ');
  expect_error(ErrorKind::checkpoint, {"steps that training learns", "lsq and pact"}, [&] {
    TrainingRun(settings("plain"), {}).run();
    load_model(path("plain"), DType::bf16, true);
  });
}

TEST_F(TrainingRunTest, RecomputationChangesNoLoss) {
  TrainingRun(settings("kept"), {}).run();
  TrainingRun(settings("recomputed", {"model.recompute=block"}), {}).run();
  EXPECT_EQ(rows("kept"), rows("recomputed"));
}

// What a kill leaves: rows after the newest checkpoint, half a row, half a checkpoint, and a newer one that is damaged.
TEST_F(TrainingRunTest, ResumesFromTheNewestCheckpointThatIsWhole) {
  TrainingRun(settings("whole"), {}).run();
  TrainingRun(settings("killed"), {}).run();
  const std::filesystem::path run = directory_ / "killed";
  std::filesystem::remove_all(run / "checkpoints/step_00000012");
  {
    std::fstream state(run / "checkpoints/step_00000008/rank_0000.h5", std::ios::in | std::ios::out | std::ios::binary);
    state.seekp(3000);
    state.put('!');
  }
  std::ofstream(run / "metrics.jsonl", std::ios::app) << "{\"step\": 13, \"lo";
  TrainingRun resumed(settings("killed"), {.resume = true});
  EXPECT_EQ(resumed.step(), 4);
  resumed.run();
  EXPECT_EQ(rows("killed"), rows("whole"));
}

TEST_F(TrainingRunTest, RefusesToOverwriteARun) {
  TrainingRun(settings("a"), {}).run();
  expect_error(ErrorKind::configuration, {"already holds", "--resume"}, [&] { TrainingRun(settings("a"), {}); });
}

TEST_F(TrainingRunTest, RefusesAnotherIdentityOnResume) {
  TrainingRun(settings("a"), {}).run();
  for (const std::string change : {"run.seed=2", "batch.micro=4", "batch.lanes=4", "precision.recipe=fp32",
                                   "precision.keep_bf16.last=1", "model.width=64"})
    expect_error(ErrorKind::configuration, {"identity", change.substr(0, change.find('='))},
                 [&] { TrainingRun(settings("a", {change}), {.resume = true}); });
  expect_error(ErrorKind::configuration, {"threads"},
               [&] { TrainingRun(settings("a", {"run.threads=1"}), {.resume = true}); });
  EXPECT_EQ(TrainingRun(settings("a", {"run.threads=1"}), {.resume = true, .retune = true}).step(), 12);
}

TEST_F(TrainingRunTest, RefusesWhenEveryCheckpointIsDamaged) {
  TrainingRun(settings("a"), {}).run();
  for (const char* step : {"04", "08", "12"})
    std::filesystem::resize_file(directory_ / "a/checkpoints" / (std::string("step_000000") + step) / "rank_0000.h5",
                                 1000);
  expect_error(ErrorKind::checkpoint, {"none of the run's checkpoints"},
               [&] { TrainingRun(settings("a"), {.resume = true}); });
}

TEST_F(TrainingRunTest, GivesUpWhenItDiverges) {
  TrainingRun run(settings("a", {"run.max_refused=3"}),
                  scripted(poisoned(NAN, 0, [](int64_t step) { return step >= 5; })));
  expect_error(ErrorKind::numerics, {"3 refused steps", "from step 4", "learning_rate"}, [&] { run.run(); });
  const std::vector<std::string> lines = rows("a");
  ASSERT_EQ(lines.size(), 9u);
  EXPECT_NE(lines.back().find("8 "), std::string::npos);
  EXPECT_NE(lines.back().find("null"), std::string::npos) << "a norm that is not finite is null";
}

TEST_F(TrainingRunTest, GoesOnAfterARefusedStep) {
  TrainingRun run(settings("a"), scripted(poisoned(INFINITY, 1, [](int64_t step) { return step == 3; })));
  EXPECT_EQ(run.run(), TrainingRun::Outcome::finished);
  std::ifstream file(path("a") + "/metrics.jsonl");
  int rows = 0;
  for (std::string line; std::getline(file, line); ++rows) {
    const nlohmann::json row = nlohmann::json::parse(line);
    if (row["step"] == 0) continue;
    EXPECT_EQ(row["refused"].get<bool>(), row["step"] == 4) << line;
    EXPECT_TRUE(row["loss"].is_number()) << line;
    EXPECT_EQ(row["gradient_norm"].is_null(), row["step"] == 4) << line;
  }
  EXPECT_EQ(rows, 13);
}

TEST_F(TrainingRunTest, GivesUpAtTheFirstRefusedStepIfToldSo) {
  EXPECT_EQ(TrainingRun(settings("a", {"run.max_refused=1"}), {}).run(), TrainingRun::Outcome::finished);
  TrainingRun run(settings("b", {"run.max_refused=1"}),
                  scripted(poisoned(NAN, 0, [](int64_t step) { return step == 2; })));
  expect_error(ErrorKind::numerics, {"1 refused steps"}, [&] { run.run(); });
}

TEST_F(TrainingRunTest, RefusesOtherTrainingTokensOnResume) {
  TrainingRun(settings("a"), {}).run();
  write(directory_ / "text.txt", std::string(9000, 'x') + "\n");
  tokenize({.inputs = {path("text.txt")}, .output = path("train.h5")}, *make_byte_tokenizer());
  expect_error(ErrorKind::data, {"other training tokens", "train.h5"},
               [&] { TrainingRun(settings("a"), {.resume = true}); });
}

TEST_F(TrainingRunTest, OneProcessAtATime) {
  TrainingRun first(settings("a"), {});
  expect_error(ErrorKind::configuration, {path("a")}, [&] { TrainingRun(settings("a"), {.resume = true}); });
}

TEST_F(TrainingRunTest, AnotherOwnersRowsAreNotTouchedAtTheStart) {
  TrainingRun(settings("a"), {}).run();
  std::filesystem::remove_all(directory_ / "a/checkpoints/step_00000012");  // rows behind it would be cut off
  const std::string before = read_file(directory_ / "a/metrics.jsonl", ErrorKind::data);
  const auto lost = [] { throw Error({.kind = ErrorKind::resource, .what = "another process has taken over"}); };
  expect_error(ErrorKind::resource, {"another process has taken over"},
               [&] { TrainingRun(settings("a"), {.resume = true, .require_ownership = lost}); });
  EXPECT_EQ(read_file(directory_ / "a/metrics.jsonl", ErrorKind::data), before);
}

TEST_F(TrainingRunTest, ARetunedRunStaysMarked) {
  TrainingRun(settings("a", {"steps=4"}), {}).run();
  TrainingRun(settings("a", {"steps=8", "run.threads=1"}), {.resume = true, .retune = true}).run();
  TrainingRun(settings("a", {"steps=12", "run.threads=1"}), {.resume = true}).run();
  std::ifstream file(path("a") + "/metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    const nlohmann::json row = nlohmann::json::parse(line);
    if (row["step"] == 0) continue;
    EXPECT_EQ(row["retuned"].get<bool>(), row["step"] > 4) << line;
  }
}

TEST_F(TrainingRunTest, ARunInterruptedBeforeItsFirstStepHasOneRowForStepZero) {
  TrainingRun(settings("whole"), {}).run();
  {
    TrainingRun run(settings("cut"), {});
    std::thread signal([] {  // as soon as the run listens, before its first step
      struct sigaction action {};
      do sigaction(SIGTERM, nullptr, &action);
      while (action.sa_handler == SIG_DFL);
      std::raise(SIGTERM);
    });
    EXPECT_EQ(run.run(), TrainingRun::Outcome::interrupted);
    signal.join();
    EXPECT_EQ(run.step(), 0);
  }
  TrainingRun(settings("cut"), {.resume = true}).run();
  EXPECT_EQ(rows("cut"), rows("whole"));
}

// Resume across the end of an epoch, with packed documents, a tied head and more lanes than micro-batches.
TEST_F(TrainingRunTest, ResumesOnPairsAcrossEpochs) {
  const std::vector<std::string> overrides = {"data.train=" + path("pairs.h5"),
                                              "data.validation=",
                                              "validation.every=0",
                                              "data.packing=documents",
                                              "batch.tokens=96",
                                              "batch.micro=1",
                                              "model.tied=true"};
  TrainingRun(settings("whole", overrides), {}).run();
  EXPECT_EQ(TrainingRun(settings("cut", overrides), scripted(interrupted_in(4))).run(),
            TrainingRun::Outcome::interrupted);
  TrainingRun(settings("cut", overrides), {.resume = true}).run();
  EXPECT_EQ(rows("cut"), rows("whole"));
}

TEST_F(TrainingRunTest, EvaluationCountsTheBytesOfWhatItScored) {
  const TokenData data = TokenData::open(path("train.h5"));
  const Settings run = settings("a");
  const Loader loader(data, {.sequence = 32});
  Stream stream(2);
  const ModelConfig config = model_config(run, data.tokenizer().vocabulary);
  Llama model(stream, config, find_recipe("fp32"), {.sequences = 3, .length = 32, .training = false});
  const ParameterSet masters(model.layout(), DType::f32, DType::f32, false, "masters"), weights = model.make_weights();
  initialize(stream, config, model.layout(), 1, 0.02, masters);
  copy_parameters(stream, masters, weights);
  const std::unique_ptr<World> world = make_local_world();
  const Evaluation all = evaluate(model, weights, loader, 0, *world),
                   part = evaluate(model, weights, loader, 100, *world);
  EXPECT_EQ(all.tokens, data.tokens() - 1);
  EXPECT_EQ(*all.bytes, static_cast<double>(*data.text_bytes()));
  EXPECT_EQ(part.tokens, 128) << "whole windows, however many one forward pass takes";
  EXPECT_NEAR(*part.bytes, 129.0 * static_cast<double>(*data.text_bytes()) / static_cast<double>(data.tokens()), 1e-6);
  EXPECT_NEAR(*all.bits_per_byte(), all.loss() / std::log(2.0) * static_cast<double>(all.tokens) / *all.bytes, 1e-9);
  EXPECT_NEAR(all.loss(), std::log(259.0), 0.1) << "an untrained model knows nothing";
}

TEST_F(TrainingRunTest, FineTunesFromACheckpointOnPairs) {
  TrainingRun(settings("base"), {}).run();
  Settings tuning = settings(
      "tuned", {"model.width=0", "model.layers=0", "model.heads=0", "model.ffn=0", "model.from=" + path("base"),
                "data.train=" + path("pairs.h5"), "data.validation=", "validation.every=0", "data.packing=documents",
                "batch.tokens=64", "steps=40", "schedule.name=constant"});
  TrainingRun run(tuning, {});
  EXPECT_EQ(run.run(), TrainingRun::Outcome::finished);
  const LoadedModel model = load_model(path("tuned"), DType::f32);
  Stream stream(1);
  Decoder decoder(stream, model.config, find_recipe("fp32"), model.weights, 32);
  std::string text;
  generate(decoder, *model.tokenizer, "one and one is ", model.tokens.ends, {.tokens = 10, .temperature = 0},
           [&](std::string_view piece) { text += piece; });
  EXPECT_EQ(text, "two") << "the completion and its end are learnt by heart";
}

TEST_F(TrainingRunTest, ZLossIsRecordedBesideTheLoss) {
  TrainingRun(settings("plain"), {}).run();
  TrainingRun(settings("z", {"loss.z_loss=0.01"}), {}).run();
  const auto of_step = [&](const std::string& run, int64_t step, const char* column) {
    std::ifstream file(path(run) + "/metrics.jsonl");
    std::string line;
    for (int64_t row = 0; row <= step; ++row) std::getline(file, line);
    return nlohmann::json::parse(line).value(column, nlohmann::json());
  };
  EXPECT_EQ(of_step("z", 1, "loss"), of_step("plain", 1, "loss")) << "the loss is the cross-entropy";
  EXPECT_NE(of_step("z", 12, "loss"), of_step("plain", 12, "loss"));
  EXPECT_TRUE(of_step("plain", 1, "z_loss").is_null());
  // At the start all 259 logits are near 0.
  EXPECT_NEAR(of_step("z", 1, "z_loss").get<double>(), 0.01 * std::pow(std::log(259.0), 2), 0.01);
  EXPECT_LT(of_step("z", 12, "z_loss").get<double>(), of_step("z", 1, "z_loss").get<double>());
}

TEST_F(TrainingRunTest, UpdatesAreRecordedByGroup) {
  TrainingRun(settings("a", {"optimizer.name=muon", "run.updates.every=5", "optimizer.qk_clip=1e-3"}), {}).run();
  std::ifstream file(path("a") + "/metrics.jsonl"), csv(path("a") + "/metrics.csv");
  std::string line, header;
  std::getline(csv, header);
  EXPECT_TRUE(header.ends_with(",update_rms_adamw,update_rms_muon,orthogonality_error_muon")) << header;
  for (int64_t step = 0; std::getline(file, line); ++step) {
    const nlohmann::json row = nlohmann::json::parse(line);
    EXPECT_EQ(row.contains("max_logit"), step > 0) << step;
    EXPECT_EQ(row.contains("update_rms_adamw"), step == 5 || step == 10) << step;
    EXPECT_EQ(row.contains("orthogonality_error_muon"), step == 5 || step == 10) << step;
    EXPECT_FALSE(row.contains("bytes_sent_matrices")) << "one rank sends none";
    if (step == 0) continue;
    EXPECT_GT(row["clipped_heads"].get<int64_t>(), 0) << step;
  }
  TrainingRun(settings("off", {"run.updates.every=0"}), {}).run();
  std::getline(std::ifstream(path("off") + "/metrics.csv"), header);
  EXPECT_EQ(header.find("update_rms"), std::string::npos);
}

TEST_F(TrainingRunTest, RefusesTokensOfAnotherVocabulary) {
  expect_error(ErrorKind::configuration, {"vocab"}, [&] { TrainingRun(settings("a", {"model.vocab=200"}), {}); });
}

TEST_F(TrainingRunTest, NamesTheMissingFile) {
  expect_error(ErrorKind::data, {"nowhere.h5"},
               [&] { TrainingRun(settings("a", {"data.train=" + path("nowhere.h5")}), {}); });
}

}  // namespace
}  // namespace nibble
