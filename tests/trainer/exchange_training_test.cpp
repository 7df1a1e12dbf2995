// Training with every exchange: that it learns, gives the same numbers again, and goes on after a stop as if there was
// none.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <mutex>

#include "comm/local_world.hpp"
#include "comm/thread_communicator.hpp"
#include "tests/trainer/expect_error.hpp"
#include "trainer/gradient_exchange.hpp"
#include "trainer/resolve.hpp"
#include "trainer/run_parts.hpp"

namespace nibble {
namespace {

constexpr int64_t length = 16, vocabulary = 40, all_steps = 6;

using Change = std::function<void(Settings& settings)>;

Settings settings_with(const Change& change) {
  Settings settings;
  settings.model = {.width = 64, .layers = 2, .heads = 4, .vocab = vocabulary};
  settings.data.sequence = length;
  settings.data.train = settings.run.directory = "none";
  settings.batch = {.tokens = 2 * 12 * length, .micro = 2};
  settings.steps = all_steps;
  settings.precision.recipe = "fp32";
  settings.optimizer.learning_rate = 5e-3;
  settings.schedule.name = "constant";
  settings.schedule.warmup = StepsOrShare::steps(0);
  settings.run.threads = 1;
  change(settings);
  validate(settings, {});
  return settings;
}

Batch batch_of(int64_t step, int64_t tokens) {
  const RandomStream random(9, Purpose::initialization, static_cast<uint32_t>(step));
  Batch batch{.inputs = {}, .targets = {}, .document_starts = {}, .loss_tokens = tokens};
  for (int64_t i = 0; i < batch.loss_tokens; ++i) {
    batch.inputs.push_back(static_cast<int32_t>(random.word(static_cast<uint64_t>(i)) % vocabulary));
    batch.targets.push_back((batch.inputs.back() * 7 + 1) % vocabulary);
  }
  return batch;
}

/// Bytes of all state, by rank and name.
using Saved = std::vector<std::map<std::string, std::string>>;

struct Result {
  std::vector<double> losses;
  std::vector<ExchangeReport> reports;
  int64_t bytes_sent = 0;  ///< by rank 0
  Saved state;
  std::map<std::string, int64_t> missing{};  ///< by name: elements of the logical tensor that no rank has
};

/// Steps [first, end) on `ranks` threads, from `state` if that is given.
Result train(Settings settings, int ranks, int64_t first, int64_t end, const Saved& state = {}) {
  settings.batch.lanes = ranks;
  Result result;
  result.state.resize(static_cast<size_t>(ranks));
  std::mutex mutex;
  const std::vector<std::unique_ptr<Communicator>> links = make_thread_communicators(ranks);
  std::vector<std::unique_ptr<Communicator>> communicators = make_thread_communicators(ranks);
  run_on_threads(links, [&](Communicator& link) {
    const int rank = link.rank();
    Stream stream(1);
    const std::unique_ptr<World> world = make_local_world(std::move(communicators[static_cast<size_t>(rank)]));
    std::vector<int> host;
    for (int r = 0; r < ranks; ++r) host.push_back(r / 2);
    const RunParts parts = make_run_parts(stream, *world, settings, model_config(settings, vocabulary), all_steps,
                                          exchange_maker(settings, {.steps = all_steps, .host = host}));
    StateList list;
    parts.step->state(list);
    if (state.empty()) {
      parts.step->fill_masters(new_weights(stream, settings, *parts.model));
    } else {
      for (const StateList::Entry& entry : list.entries()) {
        const std::string& bytes = state[static_cast<size_t>(rank)].at(entry.name);
        ASSERT_EQ(bytes.size(), entry.tensor.bytes()) << entry.name;
        std::memcpy(entry.tensor.data, bytes.data(), bytes.size());
      }
      parts.step->masters_changed();
    }
    for (int64_t step = first; step < end; ++step) {
      const StepResult one = parts.step->run(step, batch_of(step, settings.batch.tokens * parts.step->batches(step)));
      if (rank > 0) continue;
      result.losses.push_back(one.loss);
      result.reports.push_back(one.exchange);
      result.bytes_sent += one.bytes_sent;
    }
    StateList after;
    parts.step->state(after);
    const std::scoped_lock lock(mutex);
    for (const StateList::Entry& entry : after.entries()) {
      int64_t& missing = result.missing.try_emplace(entry.name, entry.rows * entry.cols).first->second;
      missing = entry.replicated ? 0 : missing - entry.count();
    }
    for (const StateList::Entry& entry : after.entries())
      result.state[static_cast<size_t>(rank)][entry.name] =
          std::string(static_cast<const char*>(entry.tensor.data), entry.tensor.bytes());
  });
  return result;
}

struct Case {
  std::string name;
  Change change;
  std::vector<int> ranks = {3, 4};
};

Change exchange(const std::string& name, const std::string& codec = "", const std::string& algorithm = "auto") {
  return [=](Settings& s) {
    s.gradients.exchange = name;
    s.gradients.codec = codec;
    s.gradients.algorithm = algorithm;
    s.gradients.density = 0.25;
  };
}

Change both(const Change& one, const Change& other) {
  return [=](Settings& s) {
    one(s);
    other(s);
  };
}

std::vector<Case> cases() {
  return {
      {"sparcml", exchange("sparcml", "", "split")},
      {"sparcml, recursive doubling, bf16",
       both(exchange("sparcml", "", "recursive_doubling"), [](Settings& s) { s.gradients.wire = "bf16"; })},
      {"sparcml, 4 bits", exchange("sparcml", "maxmin-4", "dense_split")},
      {"sparcml of all", both(exchange("sparcml", "", "split"), [](Settings& s) { s.gradients.select = "all"; })},
      {"maxmin-4", exchange("quantized")},
      {"eden-1", exchange("quantized", "eden-1")},
      {"fp8 with feedback", exchange("quantized", "fp8-nearest")},
      {"correlated", exchange("quantized", "correlated-4")},
      {"marina", both(exchange("marina"), [](Settings& s) { s.gradients.full_probability = 0.3; })},
      {"marina, full steps of three batches", both(exchange("marina", "permutation"),
                                                   [](Settings& s) {
                                                     s.gradients.full_probability = 0.3;
                                                     s.gradients.full_batches = 3;
                                                   })},
      {"marina, eden", exchange("marina", "eden-4")},
      {"marina, permutation", exchange("marina", "permutation")},
      {"marina, random", exchange("marina", "random")},
      {"ef21", exchange("ef21")},
      {"lattice", exchange("lattice", "rotated-lattice-4")},
      {"warm-up",
       both(exchange("sparcml", "", "split"), [](Settings& s) { s.gradients.warmup = StepsOrShare::steps(2); })},
      {"hierarchical",
       both(exchange("sparcml", "", "split"), [](Settings& s) { s.gradients.hierarchical = true; }),
       {4}},
      {"by layer", both(exchange("sparcml", "", "split"),
                        [](Settings& s) {
                          s.gradients.overrides = {{.layers = {"embedding", "head"}, .exchange = "dense"},
                                                   {.layers = {"last 1"}, .exchange = "marina"}};
                        })},
      {"virtual", both(exchange("marina"), [](Settings& s) { s.gradients.virtual_ranks = 3; }), {1}},
      {"virtual, full steps of two batches",
       both(exchange("marina", "permutation"),
            [](Settings& s) {
              s.gradients.virtual_ranks = 3;
              s.gradients.full_batches = 2;
            }),
       {1}},
      {"virtual, ef21", both(exchange("ef21"), [](Settings& s) { s.gradients.virtual_ranks = 4; }), {1}},
      {"Adam sharded", both(exchange("ef21"), [](Settings& s) { s.shard = "optimizer"; })},
      {"shard: gradients", both(exchange("quantized", "fp8-nearest"), [](Settings& s) { s.shard = "gradients"; })},
      {"marina sharded", both(exchange("marina", "eden-4"), [](Settings& s) { s.shard = "optimizer"; })},
  };
}

TEST(ExchangeTraining, LearnsAndGoesOnAsIfItHadNotStopped) {
  for (const Case& one : cases())
    for (const int ranks : one.ranks) {
      SCOPED_TRACE(fmt::format("{}, {} ranks", one.name, ranks));
      const Settings settings = settings_with(one.change);
      const Result whole = train(settings, ranks, 0, all_steps);
      ASSERT_EQ(whole.losses.size(), static_cast<size_t>(all_steps));
      EXPECT_LT(whole.losses.back(), whole.losses.front() - 0.05);
      for (const auto& [name, missing] : whole.missing) EXPECT_EQ(missing, 0) << name;
      for (const ExchangeReport& report : whole.reports) EXPECT_LT(*report.relative_error, 3);
      const Result begun = train(settings, ranks, 0, 3);
      const Result resumed = train(settings, ranks, 3, all_steps, begun.state);
      EXPECT_EQ(resumed.losses, std::vector(whole.losses.begin() + 3, whole.losses.end()));
      EXPECT_EQ(resumed.state, whole.state);
    }
}

TEST(ExchangeTraining, SendsFewerBytes) {
  const auto sent = [](const Change& change) { return train(settings_with(change), 4, 0, 2).bytes_sent; };
  const int64_t dense = sent([](Settings&) {});
  EXPECT_LT(3 * sent(both(exchange("sparcml", "", "split"), [](Settings& s) { s.gradients.density = 0.02; })), dense);
  EXPECT_LT(4 * sent(exchange("quantized")), dense);
}

// A sum of sparse streams does not depend on who gets it.
TEST(ExchangeTraining, ShardingTheOptimizerChangesNoBitOfSparseSums) {
  const auto losses = [](const char* shard) {
    return train(settings_with(both(exchange("sparcml", "", "split"), [&](Settings& s) { s.shard = shard; })), 3, 0, 4)
        .losses;
  };
  EXPECT_EQ(losses("none"), losses("optimizer"));
}

// Permuted coordinates are added alike whoever gets the sum; in step 32 a third point lies between weights that have
// only just been gathered.
TEST(ExchangeTraining, ShardingTheOptimizerChangesNoPointOfMarina) {
  const auto result = [](const char* shard) {
    return train(settings_with(both(exchange("marina", "permutation"),
                                    [&](Settings& s) {
                                      s.shard = shard;
                                      s.gradients.full_probability = 1e-6;
                                    })),
                 3, 30, 34);
  };
  const Result whole = result("none"), sharded = result("optimizer");
  EXPECT_EQ(whole.losses, sharded.losses);
  ASSERT_TRUE(whole.reports[2].signal_ratio && sharded.reports[2].signal_ratio);
  EXPECT_NEAR(*whole.reports[2].signal_ratio, *sharded.reports[2].signal_ratio, 1e-9 * *whole.reports[2].signal_ratio);
}

TEST(ExchangeTraining, OfMarinaSendingEverythingIsDense) {
  const auto always = both(exchange("marina"), [](Settings& s) { s.gradients.full_probability = 1; });
  EXPECT_EQ(train(settings_with(always), 4, 0, 4).losses, train(settings_with([](Settings&) {}), 4, 0, 4).losses);
}

// A full step of two batches is the dense exchange of twice the batch.
TEST(ExchangeTraining, OfMarinaTakesMoreBatchesInFullSteps) {
  const auto twice = both(exchange("marina"), [](Settings& s) {
    s.gradients.full_probability = 1;
    s.gradients.full_batches = 2;
  });
  const Settings large = settings_with([](Settings& s) { s.batch.tokens *= 2; });
  EXPECT_EQ(train(settings_with(twice), 4, 0, 3).losses, train(large, 4, 0, 3).losses);
}

// In fp32 differences of gradients stand far above rounding; in bf16 they drown.
TEST(ExchangeTraining, TellsHowMuchOfADifferenceIsRounding) {
  const auto ratio = [](const char* recipe, double rate) {
    const Settings settings = settings_with(both(exchange("marina", "eden-8"), [&](Settings& s) {
      s.precision.recipe = recipe;
      s.optimizer.learning_rate = rate;
      s.gradients.full_probability = 1e-6;
      s.steps = 33;
    }));
    const Result result = train(settings, 2, 32 - 2, 33);  // step 32 measures
    EXPECT_FALSE(result.reports.front().signal_ratio);
    return result.reports.back().signal_ratio.value_or(-1);
  };
  const double fine = ratio("fp32", 1e-4), coarse = ratio("bf16", 1e-4);
  EXPECT_GT(fine, 30);
  EXPECT_GT(coarse, 0);
  EXPECT_LT(coarse, fine / 10);
}

TEST(ExchangeSettings, ThatContradictEachOtherAreRefused) {
  const auto expect_refused = [](const std::vector<std::string>& said, const Change& change) {
    expect_error(ErrorKind::configuration, said, [&] { settings_with(change); });
  };
  const auto of = [](
                      const std::string& name, const std::string& codec, const Change& more = [](Settings&) {}) {
    return both(exchange(name, codec), more);
  };
  expect_refused({"compressed exchange with sharded parameters", "shard=gradients"},
                 of("sparcml", "", [](Settings& s) { s.shard = "parameters"; }));
  expect_refused({"unknown", "qsgd-9", "qsgd-8"}, of("quantized", "qsgd-9"));
  expect_refused({"gradients.codec", "lattice"}, of("quantized", "lattice-4"));
  expect_refused({"gradients.codec", "lattice-2"}, of("lattice", "maxmin-4"));
  expect_refused({"gradients.codec", "none: set gradients.wire"}, of("dense", "maxmin-4"));
  expect_refused({"gradients.codec", "unbiased"}, of("marina", "fp8-nearest"));
  expect_refused({"gradients.codec", "ef21"}, of("marina", "top-k"));
  expect_refused({"correlated", "error_feedback"},
                 of("quantized", "correlated-1", [](Settings& s) { s.gradients.error_feedback = "true"; }));
  expect_refused({"dense_split"}, of("sparcml", "maxmin-4", [](Settings& s) { s.gradients.algorithm = "split"; }));
  expect_refused({"marina", "allow_noisy_difference", "quartet2"},
                 of("marina", "", [](Settings& s) { s.precision.recipe = "quartet2"; }));
  expect_refused({"virtual_ranks", "5 for 12"}, of("sparcml", "", [](Settings& s) { s.gradients.virtual_ranks = 5; }));
  expect_refused({"hierarchical"}, of("ef21", "", [](Settings& s) { s.gradients.hierarchical = true; }));
  expect_refused({"unknown exchange", "sparse"}, of("dense", "", [](Settings& s) {
                   s.gradients.overrides = {{.layers = {"0"}, .exchange = "sparse"}};
                 }));
  settings_with(of("marina", "", [](Settings& s) {
    s.precision.recipe = "quartet2";
    s.gradients.allow_noisy_difference = true;
  }));
}

}  // namespace
}  // namespace nibble
