// The forecast of a step: the bytes are those that real steps send, and time hides where the schedule lets it.
#include "trainer/step_forecast.hpp"

#include <gtest/gtest.h>

#include <fmt/format.h>

#include <string_view>
#include <thread>
#include <utility>

#include "comm/local_world.hpp"
#include "comm/thread_communicator.hpp"
#include "optim/weight_decay.hpp"
#include "tests/trainer/expect_error.hpp"
#include "trainer/make_optimizer.hpp"
#include "trainer/train_step.hpp"
#include "trainer/weight_gather.hpp"

namespace nibble {
namespace {

constexpr int64_t length = 8;
constexpr Shard levels[] = {Shard::none, Shard::optimizer, Shard::gradients, Shard::parameters};

struct Case {
  int ranks = 2;
  Shard shard = Shard::none;
  int64_t micro_batches = 8;
  bool tied = false;
  Wire wire = Wire::f32;
  const char* recipe = "bf16";
  bool gather_codes = false;
  std::string optimizer = "adamw";
  int64_t ffn = 80;
  double z_loss = 0;
  bool qk_norm = false;
};

std::string name(const Case& how) {
  return fmt::format("{} ranks, shard {}, {} micro-batches, tied {}, wire {}, recipe {}", how.ranks,
                     static_cast<int>(how.shard), how.micro_batches, how.tied, static_cast<int>(how.wire), how.recipe);
}

ModelConfig shape(const Case& how) {
  return {.vocabulary = 300,  // enough for runs of several blocks
          .width = 48,
          .layers = 4,
          .heads = 4,
          .kv_heads = 2,
          .head_dim = 12,
          .ffn = how.ffn,
          .context = length,
          .tied = how.tied,
          .qk_norm = how.qk_norm};
}

Batch batch_of(int64_t sequences) {
  Batch batch{.sequences = sequences,
              .length = length,
              .inputs = {},
              .targets = {},
              .document_starts = {},
              .loss_tokens = sequences * length};
  batch.inputs.assign(static_cast<size_t>(sequences * length), 3);
  batch.targets.assign(static_cast<size_t>(sequences * length), 5);
  return batch;
}

constexpr int64_t steps = 2;

/// What a rank sent.
struct Sent {
  int64_t in_last_step = 0;
  int64_t reported = 0;  ///< by all steps
};

/// By rank.
std::vector<Sent> bytes_sent(const Case& how) {
  std::vector<Sent> bytes(static_cast<size_t>(how.ranks));
  std::vector<std::unique_ptr<Communicator>> communicators = make_thread_communicators(how.ranks);
  std::vector<std::jthread> threads;
  for (size_t rank = 0; rank < bytes.size(); ++rank)
    threads.emplace_back([&, rank] {
      Stream stream(1);
      const ModelConfig config = shape(how);
      Llama model(stream, config, find_recipe(how.recipe), {.sequences = 1, .length = length});
      const std::unique_ptr<World> world = make_local_world(std::move(communicators[rank]));
      TrainStep step(
          stream, model, *world,
          {.micro_batches = how.micro_batches,
           .lanes = 4,
           .shard = how.shard,
           .gather_codes = how.gather_codes,
           .z_loss = how.z_loss,
           .schedule = {.steps = steps}},
          weight_decay_mask(model.layout().parameters(), default_no_decay),
          [&](const std::vector<OptimizedParameter>& parameters, const ParameterShares& shares) {
            return make_optimizer({.name = how.optimizer}, steps, 5, parameters, shares);
          },
          [&](CommunicationThread& thread, const ExchangePlan& plan) {
            return make_dense_exchange(thread, how.wire, plan.goes);
          });
      step.fill_masters([&](size_t parameter, const Tensor& whole) {
        initialize_parameter(stream, config, model.layout(), parameter, 3, 0.02, whole);
      });
      uint64_t before = 0;
      for (int64_t s = 0; s < steps; ++s) {
        bytes[rank].reported += step.run(s, batch_of(how.micro_batches)).bytes_sent;
        world->thread().settle();  // what was published for the next step, too
        const uint64_t sent = world->thread().totals().bytes_sent;
        bytes[rank].in_last_step = static_cast<int64_t>(sent - std::exchange(before, sent));
      }
    });
  threads.clear();
  return bytes;
}

StepForecast forecast(const Case& how, int rank, const ForecastInput& input) {
  const ParameterLayout layout(input.config);
  const CodeBits bits = how.gather_codes ? code_bits(layout, find_recipe(how.recipe)) : CodeBits();
  return forecast_step(layout, ShardPlan(layout, how.shard, rank, how.ranks, how.micro_batches, 4, bits), input);
}

ForecastInput input_of(const Case& how) {
  return {.config = shape(how), .length = length, .wire = how.wire, .speed = {}};
}

TEST(StepForecast, EveryByteIsOneThatTheStepSends) {
  for (const Shard shard : levels)
    for (const bool tied : {false, true})
      for (const int ranks : {2, 4})
        for (const int64_t micro_batches : {4, 8})
          for (const Wire wire : {Wire::f32, Wire::bf16}) {
            if (wire == Wire::bf16 && (tied || ranks == 4)) continue;
            const Case how{ranks, shard, micro_batches, tied, wire};
            const std::vector<Sent> sent = bytes_sent(how);
            for (int rank = 0; rank < ranks; ++rank) {
              const StepForecast step = forecast(how, rank, input_of(how));
              const auto& [in_last_step, reported] = sent[static_cast<size_t>(rank)];
              EXPECT_EQ(step.bytes(), in_last_step) << name(how) << ", rank " << rank;
              // The first step reports weights that were published before it, the last one may not report its own.
              EXPECT_GE(reported, steps * step.bytes()) << name(how) << ", rank " << rank;
              EXPECT_LE(reported, steps * step.bytes() + step.weight_bytes) << name(how) << ", rank " << rank;
            }
          }
}

TEST(StepForecast, CodesOfWeightsAreCountedInBitsAndTheirScalesToo) {
  for (const char* recipe : {"halo1-int8", "halo1-fp6"})
    for (const int ranks : {2, 4}) {
      Case how{.ranks = ranks, .shard = Shard::parameters, .micro_batches = 4, .recipe = recipe, .gather_codes = true};
      const std::vector<Sent> codes = bytes_sent(how);
      int64_t saved = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const StepForecast step = forecast(how, rank, input_of(how));
        EXPECT_EQ(step.bytes(), codes[static_cast<size_t>(rank)].in_last_step) << name(how) << ", rank " << rank;
        saved -= step.weight_bytes;
      }
      how.gather_codes = false;
      for (int rank = 0; rank < ranks; ++rank) saved += forecast(how, rank, input_of(how)).weight_bytes;
      // A pass gathers two of the four blocks, since the other two are still there from the pass before; the first pass
      // after an update all of them. All ranks together send what is gathered once for each rank but one.
      const int64_t elements = (96 + 48 + 160) * 48 + 48 * 80, gathers = 2 * 2 * (4 / ranks) + 2,
                    saved_bits = std::string_view(recipe) == "halo1-fp6" ? 10 : 8,
                    scales = 16 * int64_t{sizeof(float)} * 2;
      EXPECT_EQ(saved, (ranks - 1) * (gathers * elements * saved_bits / 8 - scales)) << name(how);
    }
}

// Of 4 layers with 4 projections each: the inputs, and the errors of both gradients.
TEST(StepForecast, DelayedStatisticsAreSentToo) {
  for (const int ranks : {2, 4}) {
    const Case how{.ranks = ranks, .recipe = "fp8-delayed"};
    const std::vector<Sent> sent = bytes_sent(how);
    ForecastInput input = input_of(how);
    input.statistics = 4 * 4 * 3;
    for (int rank = 0; rank < ranks; ++rank)
      EXPECT_EQ(forecast(how, rank, input).bytes(), sent[static_cast<size_t>(rank)].in_last_step) << name(how);
  }
}

TEST(StepForecast, MatricesTravelToWhoUpdatesThem) {
  for (const auto& [ranks, optimizer] : {std::pair(2, "muon"), {4, "muon"}, {2, "mars-m"}, {2, "soap"}, {4, "shampoo"}})
    for (const Shard shard : levels) {
      const Case how{.ranks = ranks, .shard = shard, .micro_batches = 4, .optimizer = optimizer, .ffn = 400};
      const std::vector<Sent> sent = bytes_sent(how);
      ForecastInput input = input_of(how);
      input.matrices = whole_matrices({.name = optimizer}, ParameterLayout(shape(how)).parameters());
      EXPECT_EQ(input.matrices.size(), 7 * 4u);
      for (int rank = 0; rank < ranks; ++rank) {
        const StepForecast step = forecast(how, rank, input);
        EXPECT_EQ(step.bytes(), sent[static_cast<size_t>(rank)].in_last_step) << name(how) << ", rank " << rank;
        EXPECT_GT(step.matrix_bytes, 0);
      }
    }
}

TEST(StepForecast, GainsOfHeadsAreSentToo) {
  for (const Shard shard : levels)
    for (const Case& how : {Case{.shard = shard, .qk_norm = true}, Case{.ranks = 4, .shard = shard, .qk_norm = true}}) {
      const std::vector<Sent> sent = bytes_sent(how);
      for (int rank = 0; rank < how.ranks; ++rank)
        EXPECT_EQ(forecast(how, rank, input_of(how)).bytes(), sent[static_cast<size_t>(rank)].in_last_step)
            << name(how);
    }
}

TEST(StepForecast, TheTermsOfZLossAreSentToo) {
  for (const int ranks : {2, 4}) {
    const Case how{.ranks = ranks, .z_loss = 1e-4};
    const std::vector<Sent> sent = bytes_sent(how);
    ForecastInput input = input_of(how);
    const int64_t without = forecast(how, 0, input).bytes();
    input.z_loss = true;
    EXPECT_GT(forecast(how, 0, input).bytes(), without);
    for (int rank = 0; rank < ranks; ++rank)
      EXPECT_EQ(forecast(how, rank, input).bytes(), sent[static_cast<size_t>(rank)].in_last_step) << name(how);
  }
}

TEST(StepForecast, OneRankSendsNothing) {
  for (const Shard shard : levels) {
    const StepForecast step = forecast({.ranks = 1, .shard = shard}, 0, input_of({}));
    EXPECT_EQ(step.bytes(), 0);
    EXPECT_EQ(step.messages, 0);
    EXPECT_EQ(step.exposed, 0);
  }
}

TEST(StepForecast, WhatIsShorterThanTheBackwardPassHides) {
  for (const Shard shard : levels) {
    const Case how{.shard = shard};
    ForecastInput input = input_of(how);
    input.turn_seconds = 1;
    input.optimizer_seconds = 0.5;
    input.speed = {.latency = 0, .summed_bytes_per_second = 1e12, .gathered_bytes_per_second = 1e12};
    const StepForecast fast = forecast(how, 0, input);
    EXPECT_NEAR(fast.step(), 4 * 1 + 0.5, 1e-4) << name(how);

    input.speed = {.latency = 0, .summed_bytes_per_second = 1e4, .gathered_bytes_per_second = 1e4};
    const StepForecast slow = forecast(how, 0, input);
    EXPECT_GT(slow.exposed, 0) << name(how);
    EXPECT_LT(slow.exposed, slow.communication) << name(how);
    EXPECT_GE(slow.step(), slow.communication) << "the link is never used twice at a time, " << name(how);
  }
}

// With four micro-batches on each rank the sum of all hides under one of them at most, a sum of each under all.
TEST(StepForecast, AtMostOneBackwardPassHidesAnExchangeThatComesOnceAStep) {
  const Case how{};
  ForecastInput input = input_of(how);
  input.turn_seconds = 1;
  input.speed = {.latency = 0, .summed_bytes_per_second = 1e5, .gathered_bytes_per_second = 1e5};
  const StepForecast step = forecast(how, 0, input);
  ASSERT_GT(step.communication, 1);
  EXPECT_GT(step.exposed, step.communication - 1);
}

TEST(StepForecast, ACoreThatCommunicatesDoesNotCompute) {
  const Case how{.shard = Shard::gradients};
  ForecastInput input = input_of(how);
  input.turn_seconds = 1;
  input.speed = {.latency = 0, .summed_bytes_per_second = 1e6, .gathered_bytes_per_second = 1e6};
  const StepForecast idle = forecast(how, 0, input);
  input.speed.core_share = 0.5;
  const StepForecast busy = forecast(how, 0, input);
  EXPECT_EQ(idle.slowed, 0);
  EXPECT_NEAR(busy.step() - idle.step(), 0.5 * (idle.communication - idle.exposed), 1e-9);
}

TEST(StepForecast, AnImaginedRankCannotSend) {
  const std::unique_ptr<Communicator> ranks = make_imagined_communicator(1, 4);
  EXPECT_EQ(ranks->rank(), 1);
  EXPECT_EQ(ranks->size(), 4);
  expect_error(ErrorKind::internal, {"only imagined"}, [&] { ranks->transfer({}, {}); });
}

}  // namespace
}  // namespace nibble
