// The memory of a run on a device: foreseen without touching it, held to what the run then takes there, and refused
// where it does not fit; `nibble plan` on it, and the coordinate check.
#include <gtest/gtest.h>

#include <cmath>

#include "comm/local_world.hpp"
#include "tensor/cuda/emulation/control.hpp"
#include "tensor/error.hpp"
#include "tensor/files.hpp"
#include "tests/trainer/small_run.hpp"
#include "trainer/coordinates.hpp"
#include "trainer/plan_output.hpp"
#include "trainer/run_plan.hpp"

namespace nibble {
namespace {

class MemoryOfDevice : public test::SmallRunTest {
 protected:
  Settings on_device(const std::string& run, std::vector<std::string> overrides = {}) const {
    overrides.insert(overrides.begin(), {"model.layers=1", "batch.tokens=64", "batch.micro=1", "steps=2",
                                         "validation.every=0", "data.validation=", "run.device=cuda"});
    return settings(run, overrides);
  }
  static RunPlan plan_of(const Settings& settings, const PlanOptions& options = {}) {
    const std::unique_ptr<World> world = make_local_world();
    return make_plan(*world, settings, options);
  }
  MemoryTable recorded(const std::string& run, const char* what) const {
    MemoryTable table;
    const nlohmann::json json = nlohmann::json::parse(read_file(path(run) + "/memory.json", ErrorKind::data));
    for (const auto& [purpose, bytes] : json[what].items()) table[purpose] = bytes.get<size_t>();
    return table;
  }
};

/// What comes while a run works: at most as much as was foreseen.
const std::vector<std::string> working = {"staging", "working memory of kernels", "communication"};

TEST_F(MemoryOfDevice, IsWhatARunHolds) {
  int number = 0;
  for (const std::string how : {"optimizer.name=normuon", "optimizer.moments=8-bit,optimizer.offload=moments",
                                "shard=parameters,optimizer.offload=masters", "precision.recipe=fp8",
                                "precision.recipe=ste-w8a8", "gradients.exchange=quantized,gradients.codec=fp8-nearest",
                                "gradients.exchange=sparcml", "gradients.exchange=sparcml,gradients.select=all",
                                "gradients.exchange=ef21", "gradients.exchange=marina,gradients.codec=random"}) {
    SCOPED_TRACE(how);
    std::vector<std::string> with = {how.substr(0, how.find(','))};
    if (with.front() != how) with.push_back(how.substr(how.find(',') + 1));
    const std::string name = "run" + std::to_string(number++);
    const MemoryTable before = held_memory(Place::device), before_on_host = held_memory();
    TrainingRun run(on_device(name, with), {});
    EXPECT_EQ(run.run(), TrainingRun::Outcome::finished);
    MemoryTable held = held_memory_since(before, Place::device), foreseen = recorded(name, "gpu");
    for (const std::string& purpose : working) {
      EXPECT_LE(held[purpose], foreseen[purpose]) << purpose;
      held.erase(purpose);
      foreseen.erase(purpose);
    }
    if (cuda::emulation::linked() && !cuda::emulation::library_use)
      foreseen.erase("working memory of the GEMM library");  // built without its header
    EXPECT_EQ(held, foreseen);

    MemoryTable host = held_memory_since(before_on_host), of_host = recorded(name, "rows");
    for (const char* pinned : {"pinned optimizer moments", "pinned master weights", "checkpoint snapshot"})
      EXPECT_EQ(host[pinned], of_host[pinned]) << pinned;

    // And what is planned for a GPU that is not there.
    const RunPlan plan = plan_of(on_device("planned", with), {.gpu = datasheet_of("h100")});
    EXPECT_EQ(plan.memory.gpu, recorded(name, "gpu"));
  }
}

TEST_F(MemoryOfDevice, IsForeseenWithoutTakingAny) {
  if (!cuda::emulation::linked()) GTEST_SKIP() << "needs the emulated device";
  const Settings large = on_device(
      "run", {"model.width=4096", "model.heads=32", "model.layers=32", "model.ffn=11008", "optimizer.offload=moments"});
  const size_t usual = cuda::devices().front().memory, resident = resident_memory().peak;
  cuda::emulation::limit_memory(size_t{64} << 20);
  const RunPlan plan = plan_of(large, {.gpu = datasheet_of("H200")});
  cuda::emulation::limit_memory(usual);
  EXPECT_GT(total(plan.memory.gpu), size_t{60} << 30);
  EXPECT_GT(plan.memory.table.at("pinned optimizer moments"), size_t{45} << 30);
  EXPECT_LT(resident_memory().peak, resident + (size_t{256} << 20));
  EXPECT_EQ(plan.most_gpu.bytes, 141000000000u);
}

TEST_F(MemoryOfDevice, NamesTheFirstSettingsThatFit) {
  const std::vector<std::string> large = {"model.layers=4", "batch.tokens=2048", "batch.micro=32", "batch.lanes=2"};
  const RunPlan all = plan_of(on_device("run", large), {.gpu = datasheet_of("h100")});
  ASSERT_GE(all.candidates.size(), 3u);
  size_t before = total(all.memory.gpu);
  for (const MemoryCandidate& candidate : all.candidates) {
    EXPECT_LE(candidate.gpu, before) << candidate.change;
    before = candidate.gpu;
  }
  const auto changes = [&](const char* what) {
    return std::ranges::count(all.candidates, what, &MemoryCandidate::change);
  };
  EXPECT_EQ(changes("optimizer.offload=moments"), 0) << "two portions take more than moments of so small a model";
  EXPECT_EQ(changes("model.recompute=block"), 1);
  EXPECT_TRUE(all.fits());
  const MemoryCandidate& block = *std::ranges::find(all.candidates, "model.recompute=block", &MemoryCandidate::change);
  const RunPlan tight = plan_of(on_device("run", large), {.memory = block.gpu, .gpu = datasheet_of("h100")});
  EXPECT_FALSE(tight.fits());
  const std::string text = plan_text(tight);
  EXPECT_NE(text.find("of its GPU"), std::string::npos) << text;
  EXPECT_LT(text.find("and model.recompute=block"), text.find("  fits")) << text;
  EXPECT_EQ(plan_json(tight)["fits"], false);
  EXPECT_EQ(plan_json(tight)["gpu"]["bytes"], total(tight.memory.gpu));
}

TEST_F(MemoryOfDevice, OffloadingHelpsLargeModels) {
  const std::vector<std::string> large = {"model.width=1024", "model.heads=8",    "model.layers=8",
                                          "model.ffn=4096",   "data.validation=", "validation.every=0"};
  const RunPlan plan = plan_of(on_device("run", large), {.gpu = datasheet_of("h100")});
  const auto of = [&](const char* change) {
    const auto found = std::ranges::find(plan.candidates, change, &MemoryCandidate::change);
    EXPECT_NE(found, plan.candidates.end()) << change;
    return *found;
  };
  const size_t parameters = static_cast<size_t>(plan.parameters), given = total(plan.memory.gpu),
               moments = of("optimizer.offload=moments").gpu, masters = of("optimizer.offload=masters").gpu;
  constexpr size_t portions = (size_t{4} << 22) * 2 * 3;  // at most: three values of f32 for each element
  EXPECT_NEAR(static_cast<double>(given - moments), static_cast<double>(8 * parameters), portions);
  EXPECT_NEAR(static_cast<double>(moments - masters), static_cast<double>(4 * parameters), portions);
  EXPECT_EQ(of("optimizer.offload=moments").bytes, total(plan.memory.table))
      << "what a checkpoint is copied through where the state is the device's";
}

TEST_F(MemoryOfDevice, ALowerBoundOfTime) {
  const std::vector<std::string> wide = {"model.width=4096", "model.heads=32",    "model.ffn=11008",
                                         "model.layers=32",  "batch.micro=4",     "batch.tokens=256",
                                         "data.validation=", "validation.every=0"};
  const auto plan = [&](const std::string& how, const char* gpu) {
    std::vector<std::string> with = wide;
    with.push_back(how);
    return plan_of(on_device("run", with), {.gpu = datasheet_of(gpu)});
  };
  const RunPlan bf16 = plan("precision.recipe=bf16", "h100");
  const ModelConfig config = shape_of(on_device("run", wide));
  const double products = config.flops_per_token(32) * 256 / 989.4e12;
  EXPECT_GT(bf16.step.forward_backward, products);
  // Masters and moments of 6.4G parameters are read and written, gradients read twice, working copies written.
  const double update = static_cast<double>(config.parameters()) * (4 * 2 + 8 * 2 + 4 * 2 + 2) / 3350e9;
  EXPECT_NEAR(bf16.step.optimizer / update, 1, 0.01);
  EXPECT_GT(bf16.step.forward_backward, plan("precision.recipe=fp8", "h100").step.forward_backward);
  EXPECT_GT(plan("precision.recipe=fp8", "b200").step.forward_backward,
            plan("precision.recipe=nvfp4-nvidia", "b200").step.forward_backward);
  const double link = static_cast<double>(config.parameters()) * 8 / 64e9;
  EXPECT_NEAR(plan("optimizer.offload=moments", "h100").step.optimizer / link, 1, 0.01);
  EXPECT_NE(plan_text(bf16).find("an estimate from the datasheet of H100"), std::string::npos);
  EXPECT_NE(plan_text(bf16).find("a step takes at least"), std::string::npos);
}

TEST_F(MemoryOfDevice, AGpuThatIsThereIsMeasured) {
  const RunPlan plan = plan_of(on_device("run"));
  EXPECT_FALSE(plan.estimate);
  EXPECT_EQ(plan.memory.gpu, plan_of(on_device("run"), {.gpu = datasheet_of("h100")}).memory.gpu);
  EXPECT_GT(plan.step.forward_backward, 0);
  EXPECT_GT(plan.most_gpu.bytes, 0u);
}

TEST_F(MemoryOfDevice, WrongWishes) {
  const auto refusal = [](const std::function<void()>& work) {
    try {
      work();
    } catch (const Error& error) {
      return error.detail();
    }
    return ErrorDetail{.kind = ErrorKind::internal, .what = "nothing was refused"};
  };
  EXPECT_EQ(refusal([&] { plan_of(settings("run"), {.gpu = datasheet_of("h100")}); }).kind, ErrorKind::configuration);
  const ErrorDetail unknown = refusal([] { datasheet_of("h1000"); });
  EXPECT_EQ(unknown.kind, ErrorKind::configuration);
  EXPECT_NE(unknown.allowed.find("H100 NVL"), std::string::npos);
  EXPECT_EQ(datasheet_of("H100-nvl").memory, 94);
  if (!cuda::emulation::linked()) return;
  cuda::emulation::set_devices(0);
  const ErrorDetail none = refusal([&] { plan_of(on_device("run")); });
  const RunPlan named = plan_of(on_device("run"), {.gpu = datasheet_of("h100")});
  cuda::emulation::set_devices(1);
  EXPECT_EQ(none.kind, ErrorKind::resource);
  EXPECT_NE(none.next.find("--gpu h100"), std::string::npos) << none.next;
  EXPECT_TRUE(named.fits());
}

TEST_F(MemoryOfDevice, CoordinatesAreTheHosts) {
  const auto check = [&](const std::string& device) {
    return check_coordinates(
        settings("unused", {"model.layers=1", "batch.tokens=128", "precision.recipe=fp32", "run.device=" + device}),
        {32, 64}, 2);
  };
  const CoordinateCheck host = check("cpu"), device = check("cuda");
  ASSERT_EQ(device.coordinates.size(), host.coordinates.size());
  for (size_t i = 0; i < host.coordinates.size(); ++i) {
    EXPECT_EQ(device.coordinates[i].name, host.coordinates[i].name);
    for (size_t width = 0; width < 2; ++width)
      for (size_t step = 0; step < 3; ++step) {
        const double expected = host.coordinates[i].changes[width][step];
        EXPECT_NEAR(device.coordinates[i].changes[width][step], expected, 1e-3 * expected)
            << host.coordinates[i].name << ", step " << step;
      }
    EXPECT_GT(host.coordinates[i].changes[0].back(), 0);
  }
}

}  // namespace
}  // namespace nibble
