// Steps of training on several GPUs: to the last digit those of one, however ranks send to each other and whatever each
// keeps only its part of.
#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>

#include "comm/exchange.hpp"
#include "tensor/cuda/emulation/control.hpp"
#include "tests/comm/nccl/gpu_ranks.hpp"
#include "tests/cuda/emulated_architecture.hpp"
#include "tests/trainer/scripted_exchange.hpp"
#include "tests/trainer/small_run.hpp"
#include "trainer/gpu_ranks.hpp"
#include "trainer/gradient_exchange.hpp"
#include "trainer/make_optimizer.hpp"
#include "trainer/resolve.hpp"
#include "trainer/run_parts.hpp"
#include "trainer/run_stream.hpp"
#include "trainer/state_on_host.hpp"

namespace nibble {
namespace {

using test::GpuWorld, test::run_well_on_gpus;

constexpr int64_t steps = 3;
constexpr const char* levels[] = {"none", "optimizer", "gradients", "parameters"};

/// What a run computed: losses and norms, and at last every master and moment.
struct Numbers {
  std::vector<double> losses, norms;
  std::vector<std::optional<double>> reported;  ///< by exchanges
  std::vector<bool> refused;
  std::map<std::string, std::vector<std::byte>> state;

  bool operator==(const Numbers&) const = default;
};

/// Runs of all ranks put together.
void collect(Stream& stream, TrainStep& step, Numbers& numbers, std::mutex& mutex) {
  StateList list;
  step.state(list);
  const StateOnHost on_host(list);
  on_host.fetch(stream);
  const std::lock_guard lock(mutex);
  for (const StateList::Entry& entry : on_host.list().entries()) {
    const size_t unit = size_of(entry.tensor.dtype);
    std::vector<std::byte>& whole = numbers.state[entry.name];
    whole.resize(static_cast<size_t>(entry.rows * entry.cols) * unit);
    if (entry.tensor.size() == 0) continue;
    ASSERT_TRUE(entry.tensor.contiguous());
    std::memcpy(whole.data() + static_cast<size_t>(entry.first) * unit, entry.tensor.data, entry.tensor.bytes());
  }
}

class GpuSteps : public test::SmallRunTest {
 protected:
  Settings with(std::vector<std::string> overrides) const {
    overrides.insert(overrides.begin(),
                     {"model.layers=1", "model.ffn=160", "batch.tokens=256", "batch.micro=1", "batch.lanes=4",
                      "run.threads=1", "run.device=cuda", "optimizer.clip=0.5", "run.updates.every=0"});
    return settings("run", overrides);
  }

  /// `disturb` gets the stream and a bucket's gradient before it leaves, on each rank.
  using Disturb = std::function<void(Stream& stream, int rank, int64_t step, const Parts& gradient)>;

  /// `make_exchange`: not the settings'.
  Numbers train(const GpuWorld& how, const Settings& settings, const std::string& links = "auto",
                const Disturb& disturb = {}, const std::vector<int>& host_of = {},
                const MakeExchange& make_exchange = {}) const {
    Numbers numbers;
    std::mutex mutex;
    run_well_on_gpus(how, [&](World& world) {
      Stream stream = run_stream(settings, world);
      const GpuRanks gpus(world, stream, links, "");
      if (links != "auto") {
        EXPECT_EQ(gpus.way(), world.size() > 1 ? links : "staged");
      }
      if (!host_of.empty())
        world.thread().change(
            [&](const std::shared_ptr<Communicator>& own) -> std::shared_ptr<Communicator> {
              return make_hierarchical_communicator(
                  {own, &own->host()}, std::make_shared<Stream>(1, Place::device, gpu_of(world)), host_of, {});
            },
            &stream.queue());
      const TokenData data = TokenData::open(settings.data.train);
      const Loader loader(data, loader_options(settings));
      const MakeExchange make = make_exchange ? make_exchange : exchange_maker(settings, {});
      const ModelConfig config = model_config(settings, data.tokenizer().vocabulary);
      choose_gemms(stream, {}, world.is_first());
      if (world.is_first()) rehearse_matrix_products(stream, settings.optimizer, ParameterLayout(config).parameters());
      RunParts parts = make_run_parts(
          stream, world, settings, config, steps,
          [&](CommunicationThread& thread, const ExchangePlan& plan) -> std::unique_ptr<GradientExchange> {
            if (!disturb) return make(thread, plan);
            return std::make_unique<test::ScriptedExchange>(
                test::ScriptedExchange::Script{.on_begin =
                                                   [&, rank = world.rank()](int64_t step, int, const Parts& gradient) {
                                                     disturb(stream, rank, step, gradient);
                                                   }},
                make(thread, plan));
          });
      parts.step->fill_masters(new_weights(stream, settings, *parts.model));
      if (world.size() > 1) {
        const Batch any = loader.batch(0, settings.batch.micro);
        parts.step->rehearse({any.inputs, any.targets, any.document_starts});
        share_gemms(world, stream);
      }
      const int64_t sequences = settings.batch.tokens / settings.data.sequence;
      for (int64_t step = 0; step < steps; ++step) {
        const StepResult result = parts.step->run(step, loader.batch(step * sequences, sequences));
        const std::lock_guard lock(mutex);
        if (world.rank() > 0) continue;
        numbers.losses.push_back(result.loss);
        numbers.norms.push_back(result.gradient_norm);
        numbers.refused.push_back(result.refused);
        const ExchangeReport& report = result.exchange;
        numbers.reported.insert(numbers.reported.end(),
                                {report.relative_error, report.residual_norm, report.signal_ratio});
      }
      collect(stream, *parts.step, numbers, mutex);
    });
    return numbers;
  }

  void expect_same(const Numbers& seen, const Numbers& expected, const std::string& what) const {
    EXPECT_EQ(seen.losses, expected.losses) << what;
    EXPECT_EQ(seen.norms, expected.norms) << what;
    EXPECT_TRUE(seen.reported == expected.reported) << what;
    EXPECT_TRUE(seen.state == expected.state) << what;
  }
};

TEST_F(GpuSteps, AreThoseOfOneGpuAtEveryLevelOfSharding) {
  for (const std::string recipe : {"fp32", "bf16"}) {
    const std::string precision = "precision.recipe=" + recipe;
    const Numbers alone = train({.ranks = 1}, with({precision}));
    ASSERT_EQ(alone.losses.size(), static_cast<size_t>(steps));
    EXPECT_LT(alone.losses.back(), alone.losses.front());
    for (const std::string level : levels)
      expect_same(train({.ranks = recipe == "bf16" ? 2 : 4}, with({precision, "shard=" + level})), alone,
                  recipe + ", shard " + level);
  }
}

TEST_F(GpuSteps, AloneShareNothing) {
  const Numbers alone = train({.ranks = 1}, with({}));
  for (const std::string level : {"optimizer", "gradients", "parameters"})
    expect_same(train({.ranks = 1}, with({"shard=" + level})), alone, "shard " + level);
}

TEST_F(GpuSteps, AreTheSameHoweverGpusSend) {
  const Numbers alone = train({.ranks = 1}, with({"model.tied=true"}));
  for (const std::string links : {"nccl", "staged", "hierarchical"})
    for (const std::string level : {"optimizer", "parameters"})
      expect_same(train({.ranks = 2, .faults = {.seed = 3, .longest_delay = std::chrono::microseconds(300)}},
                        with({"model.tied=true", "shard=" + level}), links),
                  alone, fmt::format("{}, shard {}", links, level));
  for (const std::string level : {"none", "gradients"})
    expect_same(train({.ranks = 4, .gpus = 2}, with({"model.tied=true", "shard=" + level}), "staged"), alone,
                "two GPUs for four ranks, shard " + level);
}

TEST_F(GpuSteps, AreTheSameWithinAndBetweenHosts) {
  const Numbers alone = train({.ranks = 1}, with({}));
  for (const std::string level : {"none", "parameters"})
    expect_same(train({.ranks = 4}, with({"shard=" + level}), "auto", {}, {0, 0, 1, 1}), alone, "shard " + level);
}

TEST_F(GpuSteps, RoundedGradientsAreTheHostsOfAsManyRanks) {
  for (const std::string level : {"none", "optimizer"}) {
    const Settings half = with({"gradients.wire=bf16", "shard=" + level});
    const Numbers two = train({.ranks = 2}, half);
    EXPECT_NE(two.losses, train({.ranks = 1}, half).losses) << "nothing was rounded";
    expect_same(train({.ranks = 2, .gpus = 1}, half), two, level);
  }
}

// Whole matrices travel, are changed by one rank each, and come back.
TEST_F(GpuSteps, KeepTheirBitsWithOtherOptimizers) {
  for (const auto& [optimizer, moments] :
       {std::pair{"muon", "f32"}, {"muon", "8-bit"}, {"ademamix", "bf16"}, {"soap", "f32"}, {"shampoo", "f32"}}) {
    const std::vector<std::string> how = {fmt::format("optimizer.name={}", optimizer),
                                          fmt::format("optimizer.moments={}", moments),
                                          "optimizer.learning_rate=1e-2",
                                          "optimizer.soap.every=2",
                                          "optimizer.shampoo.every=2",
                                          "model.width=64"};
    const Numbers alone = train({.ranks = 1}, with(how));
    for (const std::string level : {"none", "parameters"}) {
      std::vector<std::string> sharded = how;
      sharded.push_back("shard=" + level);
      expect_same(train({.ranks = 2}, with(sharded)), alone, fmt::format("{}, {}, {}", optimizer, moments, level));
    }
  }
}

TEST_F(GpuSteps, KeepTheirBitsInLowPrecision) {
  // CAGE and QK-clip change what each rank has of the masters.
  for (const auto& [recipe, level] :
       {std::pair{"fp8-delayed", "optimizer"}, {"quartet2", "parameters"}, {"quest-w3a3-plain", "parameters"}}) {
    std::vector<std::string> how = {fmt::format("precision.recipe={}", recipe), "model.width=128", "model.ffn=128",
                                    "batch.micro=4", "batch.tokens=512"};
    if (recipe == std::string("quest-w3a3-plain"))
      how.insert(how.end(), {"precision.cage.strength=20", "precision.cage.silence=0", "optimizer.qk_clip=0.02"});
    const Numbers alone = train({.ranks = 1}, with(how));
    how.push_back(fmt::format("shard={}", level));
    expect_same(train({.ranks = 2}, with(how)), alone, recipe);
  }
}

TEST_F(GpuSteps, KeepTheirBitsWithGraphsOfBlocks) {
  const Numbers alone = train({.ranks = 1}, with({"model.layers=2"}));
  for (const std::string level : levels)
    expect_same(train({.ranks = 2}, with({"model.layers=2", "run.gpu_graphs=true", "shard=" + level})), alone,
                "shard " + level);
}

// Of blocks with scales of their own, which a GPU of this architecture multiplies as codes.
TEST_F(GpuSteps, KeepTheirBitsWithBlockScaledCodes) {
  const testing::Architecture device(testing::blackwell);
  std::vector<std::string> how = {"precision.recipe=quartet2", "model.width=128", "model.ffn=128", "batch.micro=4",
                                  "batch.tokens=512"};
  const auto products = [] { return cuda::emulation::library_use ? cuda::emulation::library_use().codes : -1; };
  const int before = products();
  const Numbers alone = train({.ranks = 1}, with(how));
  if (before >= 0) {
    EXPECT_GT(products(), before);
  }
  how.push_back("shard=parameters");
  expect_same(train({.ranks = 2}, with(how)), alone, "quartet2");
}

// Codes instead of weights travel, and are multiplied as they come.
TEST_F(GpuSteps, AreTheSameWhereCodesOfWeightsAreGathered) {
  for (const auto& [recipe, architecture] : {std::pair{"fp8", testing::hopper}, {"halo1-fp8", testing::blackwell}}) {
    const testing::Architecture device(architecture);
    std::vector<std::string> how = {fmt::format("precision.recipe={}", recipe), "model.width=64", "model.ffn=128",
                                    "batch.tokens=128"};
    const Numbers alone = train({.ranks = 1}, with(how));
    how.insert(how.end(), {"shard=parameters", "weights.gather=codes"});
    expect_same(train({.ranks = 2}, with(how), "nccl"), alone, recipe);
    if (architecture == testing::hopper) continue;
    expect_same(train({.ranks = 2, .gpus = 1}, with(how), "staged"), alone, "through the host");
    expect_same(train({.ranks = 4}, with(how), "auto", {}, {0, 0, 1, 1}), alone, "within and between hosts");
  }
}

// Sums have the bits of the hosts' computing them as a whole, and remember the same; so it does not matter how GPUs
// send, either.
TEST_F(GpuSteps, LearnWithCompressedExchangesAsHostsWould) {
  using Overrides = std::vector<std::string>;
  for (const auto& [exchange, how] : {std::pair{"sparcml", Overrides{"gradients.algorithm=split", "shard=optimizer"}},
                                      {"quantized", {"gradients.codec=fp8-nearest"}},
                                      {"ef21", {"gradients.codec=maxmin-4", "shard=optimizer"}},
                                      {"marina", {"gradients.codec=permutation"}}}) {
    Overrides all = how;
    all.insert(all.end(), {fmt::format("gradients.exchange={}", exchange), "gradients.density=10%",
                           "gradients.full_probability=0.01", "precision.recipe=fp32"});
    const Settings settings = with(all);
    const std::string what = fmt::format("{}, {}", exchange, fmt::join(how, " "));
    const MakeExchange by_hosts = [&](CommunicationThread& thread, const ExchangePlan& plan) {
      const MakeBucketSum make = bucket_sum_maker(settings, {});
      return make_bucket_exchange(thread, plan, static_cast<uint64_t>(settings.run.seed),
                                  [=](const BucketPlace& place) { return make_sum_on_host(place, make); });
    };
    const Numbers seen = train({.ranks = 2}, settings, "nccl");
    EXPECT_LT(seen.losses.back(), seen.losses.front()) << what;
    expect_same(seen, train({.ranks = 2}, settings, "nccl", {}, {}, by_hosts), what + ", by hosts");
    if (how.size() < 2) expect_same(seen, train({.ranks = 2, .gpus = 1}, settings, "staged"), what + ", staged");
  }
}

TEST_F(GpuSteps, ANanOnOneRankStopsThatUpdateOnAll) {
  const auto disturb = [](Stream& stream, int rank, int64_t step, const Parts& gradient) {
    static const float nan = std::numeric_limits<float>::quiet_NaN();
    if (rank != 1 || step != 1) return;
    for (const Pieces& pieces : gradient)
      if (!pieces.empty()) stream.queue().copy(pieces.front().data(), &nan, sizeof nan);
  };
  for (const std::string level : {"none", "parameters"}) {
    const Settings run = with({"shard=" + level});
    const Numbers poisoned = train({.ranks = 2}, run, "auto", disturb);
    EXPECT_EQ(poisoned.refused, (std::vector<bool>{false, true, false})) << level;
    EXPECT_TRUE(std::isnan(poisoned.norms[1])) << level;
    EXPECT_TRUE(std::isfinite(poisoned.losses[2])) << level;
    EXPECT_NE(poisoned.losses[2], train({.ranks = 2}, run).losses[2]) << "the update was made, " << level;
  }
}

}  // namespace
}  // namespace nibble
