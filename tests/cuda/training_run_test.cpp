// Whole runs on a device: against the host's, killed and resumed, and what they refuse.
#include <gtest/gtest.h>

#include "tensor/cuda/emulation/control.hpp"
#include "tensor/error.hpp"
#include "tests/trainer/small_run.hpp"

namespace nibble {
namespace {

using test::interrupted_in, test::scripted;

class RunsOnDevice : public test::SmallRunTest {
 protected:
  Settings on(const std::string& device, const std::string& run, std::vector<std::string> overrides = {}) const {
    overrides.insert(overrides.begin(), {"model.layers=1", "batch.tokens=128", "steps=4", "validation.every=4",
                                         "validation.tokens=64", "run.checkpoint.every=2", "run.device=" + device});
    return settings(run, overrides);
  }
  std::vector<double> losses(const std::string& run) const {
    std::ifstream file(path(run) + "/metrics.jsonl");
    std::vector<double> result;
    for (std::string line; std::getline(file, line);)
      for (const char* key : {"loss", "validation_loss"})
        if (const nlohmann::json row = nlohmann::json::parse(line); row.contains(key) && row[key].is_number())
          result.push_back(row[key].get<double>());
    return result;
  }
  /// Factors of both sides that are decomposed in every second step.
  const std::vector<std::string> with_factors = {"optimizer.name=soap", "optimizer.soap.every=2",
                                                 "optimizer.shampoo.every=2",
                                                 "optimizer.groups=[{match: '*mlp*', name: shampoo}]"};

  static ErrorDetail refusal(const std::function<void()>& work) {
    try {
      work();
    } catch (const Error& error) {
      return error.detail();
    }
    return {.kind = ErrorKind::internal, .what = "nothing was refused"};
  }
};

TEST_F(RunsOnDevice, LearnWhatTheHostsDo) {
  struct Case {
    std::vector<std::string> settings;
    double tolerance = 1e-3;
  };
  const std::vector<Case> cases = {
      {{"run.seed=1"}},
      // Last bits of bf16 choose the vectors of a basis that no gradient has reached, and codes.
      {with_factors, 1e-2},
      {{"precision.recipe=lsq-w4a4", "optimizer.qk_clip=0.02"}, 1e-2},
      {{"precision.recipe=quest-w4a4-plain", "precision.cage.strength=20", "precision.cage.silence=0"}, 1e-2}};
  for (const auto& [overrides, tolerance] : cases) {
    const std::string& name = overrides.front();
    TrainingRun(on("cpu", "host " + name, overrides), {}).run();
    TrainingRun(on("cuda", "device " + name, overrides), {}).run();
    const std::vector<double> host = losses("host " + name), device = losses("device " + name);
    ASSERT_EQ(device.size(), host.size());
    for (size_t i = 0; i < host.size(); ++i) EXPECT_NEAR(device[i], host[i], tolerance) << name << ", " << i;
  }
}

// A copy of the run goes on from its first checkpoint, with the algorithms recorded there: on a GPU another run would
// time its own.
TEST_F(RunsOnDevice, GoOnToTheLastDigit) {
  const std::vector<std::string> wide = {"model.width=128", "model.ffn=128", "batch.micro=4"};  // rotations of 128
  for (const std::string what : {"fp8", "fp8-row", "quartet2", "lsq-w4a4"}) {
    std::vector<std::string> with = what == "quartet2"        ? wide
                                    : what.starts_with("fp8") ? std::vector<std::string>()
                                                              : with_factors;
    with.push_back("precision.recipe=" + what);
    TrainingRun(on("cuda", what, with), {}).run();
    const std::string stopped = what + "-stopped";
    std::filesystem::copy(path(what), path(stopped), std::filesystem::copy_options::recursive);
    std::filesystem::remove_all(path(stopped) + "/checkpoints/step_00000004");
    TrainingRun resumed(on("cuda", stopped, with), {.resume = true});
    ASSERT_EQ(resumed.step(), 2);
    resumed.run();
    EXPECT_EQ(rows(stopped), rows(what)) << what;
  }
}

TEST_F(RunsOnDevice, RecordWhichAlgorithmsMultiply) {
  if (cuda::emulation::linked() && !cuda::emulation::library_use) GTEST_SKIP() << "built without cublasLt.h";
  const auto products_of = [&](const std::string& run, const std::vector<std::string>& with) {
    TrainingRun(on("cuda", run, with), {}).run();
    std::vector<RefusedCheckpoint> refused;
    return newest_valid_checkpoint(path(run), refused)->header().tuning.at("products");
  };
  const nlohmann::json products = products_of("run", {}), of_rows = products_of("rows", {"precision.recipe=fp8-row"});
  EXPECT_GT(products.size(), 10u) << products.dump(2);
  EXPECT_NE(of_rows.dump().find(", scales of rows and columns"), std::string::npos) << of_rows.dump(2);
}

TEST_F(RunsOnDevice, GoOnNowhereElseUnasked) {
  TrainingRun(on("cuda", "run"), scripted(interrupted_in(1))).run();
  EXPECT_EQ(refusal([&] { TrainingRun(on("cpu", "run"), {.resume = true}); }).where, "tuning");
  EXPECT_NO_THROW(TrainingRun(on("cpu", "run"), {.resume = true, .retune = true}).run());
}

TEST_F(RunsOnDevice, SayThatThereIsNone) {
  if (!cuda::emulation::linked()) GTEST_SKIP() << "needs the emulated device";
  cuda::emulation::set_devices(0);
  const ErrorDetail error = refusal([&] { TrainingRun(on("cuda", "run"), {}); });
  cuda::emulation::set_devices(1);
  EXPECT_EQ(error.kind, ErrorKind::resource);
  EXPECT_EQ(error.allowed, "none: the driver finds no GPU");
}

TEST_F(RunsOnDevice, SayWhatWouldFitIntoItsMemory) {
  if (!cuda::emulation::linked()) GTEST_SKIP() << "needs the emulated device";
  const std::vector<std::string> large = {"model.layers=4", "batch.tokens=2048", "batch.micro=32", "batch.lanes=2"};
  const size_t usual = cuda::devices().front().memory;
  ErrorDetail error;
  for (size_t most = size_t{48} << 20; most > size_t{1} << 20 && error.kind != ErrorKind::resource;
       most = most * 19 / 20) {
    cuda::emulation::limit_memory(most);
    error = refusal([&] { TrainingRun(on("cuda", "run", large), {}); });
    std::filesystem::remove_all(path("run"));
  }
  cuda::emulation::limit_memory(usual);
  EXPECT_EQ(error.kind, ErrorKind::resource);
  EXPECT_EQ(error.what, "the run on the GPU needs more memory than there is");
  EXPECT_NE(error.seen.find("activations"), std::string::npos) << error.seen;
  EXPECT_NE(error.next.find("model.recompute=block takes"), std::string::npos) << error.next;
}

}  // namespace
}  // namespace nibble
