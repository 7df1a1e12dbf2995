// One training step on 1, 2 and 4 ranks and at every level of sharding: the same bits.
#include <gtest/gtest.h>

#include <fmt/format.h>
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <string_view>
#include <thread>
#include <tuple>

#include "comm/local_world.hpp"
#include "comm/thread_communicator.hpp"
#include "optim/weight_decay.hpp"
#include "tensor/error.hpp"
#include "tensor/random.hpp"
#include "tests/trainer/expect_error.hpp"
#include "tests/trainer/scripted_exchange.hpp"
#include "trainer/make_optimizer.hpp"
#include "trainer/run_parts.hpp"

namespace nibble {
namespace {

using test::ScriptedExchange;

constexpr int64_t steps = 3, short_length = 16;
constexpr int64_t blocks_length = 64;  // so that the blocks and rotations of recipes divide the tokens

struct Case {
  int ranks = 1;
  Shard shard = Shard::none;
  int64_t micro_batches = 8, lanes = 4;
  bool tied = false;
  DType type = DType::f32;
  Wire wire = Wire::f32;
  std::string recipe{};  ///< instead of the type's
  Recompute recompute = Recompute::none;
  int64_t width = 128;      ///< with a recipe
  bool bf16_among = false;  ///< one block and one projection of another multiply bf16
  bool gather_codes = false;
  double cage = 0;  ///< its strength
  double z_loss = 0;
  bool qk_norm = false;
  float weight = 0;  ///< if it is no number, one of the weights
  OptimizerSettings optimizer{};
  int64_t ffn = 80;  ///< without a recipe
  double qk_clip = 0;
  int64_t updates_every = 0;
  bool cautious_decay = false;
};

/// What a run computed: losses, norms, and at last every master, moment, code of a moment and working weight.
struct Numbers {
  std::vector<double> losses, z_losses, norms, max_logits;
  std::vector<int64_t> clipped_heads;
  std::vector<std::tuple<std::string, double, double>> updates;  ///< group, RMS, orthogonality error or -1
  std::map<std::string, std::vector<float>> state;
  std::vector<bool> refused;

  bool operator==(const Numbers&) const = default;
};

Batch batch_of(int64_t step, int64_t sequences, int64_t length) {
  const RandomStream random(7, Purpose::sampling, static_cast<uint32_t>(step));
  Batch batch{.sequences = sequences,
              .length = length,
              .inputs = {},
              .targets = {},
              .document_starts = {},
              .loss_tokens = sequences * length};
  for (int64_t i = 0; i < sequences * length; ++i) {
    batch.inputs.push_back(static_cast<int32_t>(random.word(static_cast<uint64_t>(2 * i)) % 40));
    batch.targets.push_back(static_cast<int32_t>(random.word(static_cast<uint64_t>(2 * i + 1)) % 40));
  }
  return batch;
}

/// Runs of all ranks put together.
void collect(TrainStep& step, std::map<std::string, std::vector<float>>& state, std::mutex& mutex) {
  StateList list;
  step.state(list);
  const std::lock_guard lock(mutex);
  for (const StateList::Entry& entry : list.entries()) {
    std::vector<float>& whole = state[entry.name];
    whole.resize(static_cast<size_t>(entry.rows * entry.cols));
    const auto copy = [&]<class T>(const T* elements) {
      std::transform(elements, elements + entry.tensor.size(), whole.begin() + entry.first,
                     [](T element) { return static_cast<float>(element); });
    };
    if (entry.tensor.dtype == DType::f32) copy(entry.tensor.as<float>());
    else if (entry.tensor.dtype == DType::bf16) copy(entry.tensor.as<bf16>());
    else if (entry.tensor.dtype == DType::u8) copy(entry.tensor.as<uint8_t>());
    else if (entry.tensor.dtype == DType::i8) copy(entry.tensor.as<int8_t>());
    else state.erase(entry.name);  // counters
  }
}

Numbers run(const Case& how, const ScriptedExchange::Script& script = {}, int scripted_rank = 0) {
  Numbers numbers;
  std::mutex mutex;
  std::vector<std::unique_ptr<Communicator>> communicators = make_thread_communicators(how.ranks);
  const auto work = [&](int rank) {
    Stream stream(1);
    ModelConfig config{.vocabulary = 40,
                       .width = 48,  // rows of bf16 are padded
                       .layers = 3,
                       .heads = 4,
                       .kv_heads = 2,
                       .head_dim = 12,
                       .ffn = how.ffn,
                       .context = short_length,
                       .tied = how.tied,
                       .qk_norm = how.qk_norm};
    if (!how.recipe.empty()) {
      config.width = how.width;
      config.head_dim = how.width / 4;
      config.ffn = 2 * how.width;
      config.context = blocks_length;
    }
    const char* plain = how.type == DType::f32 ? "fp32" : "bf16";
    std::vector<PrecisionRule> rules;
    if (how.bf16_among)
      rules = {{.first_layer = 2, .recipe = find_recipe("bf16")},
               {.end_layer = 1, .of = {Projection::qkv}, .recipe = find_recipe("bf16")}};
    Llama model(stream, config, {find_recipe(how.recipe.empty() ? plain : how.recipe), rules},
                {.sequences = 2, .length = config.context, .recompute = how.recompute, .seed = 5});
    const std::unique_ptr<World> world = make_local_world(std::move(communicators[static_cast<size_t>(rank)]));
    TrainStep step(
        stream, model, *world,
        {.micro_batches = how.micro_batches,
         .lanes = how.lanes,
         .shard = how.shard,
         .gather_codes = how.gather_codes,
         .clip = 0.5,
         .cautious_decay = how.cautious_decay,
         .z_loss = how.z_loss,
         .qk_clip = how.qk_clip,
         .schedule = {.kind = ScheduleKind::constant, .peak = 1e-2, .steps = steps},
         .cage = {.strength = how.cage, .silence = 0, .steps = steps},
         .update_groups = update_groups(how.optimizer, model.layout().parameters(), {}),
         .updates_every = how.updates_every},
        weight_decay_mask(model.layout().parameters(), default_no_decay),
        [&](const std::vector<OptimizedParameter>& parameters, const ParameterShares& shares) {
          return make_optimizer(how.optimizer, steps, 5, parameters, shares);
        },
        [&](CommunicationThread& thread, const ExchangePlan& plan) -> std::unique_ptr<GradientExchange> {
          auto dense = make_dense_exchange(thread, how.wire, plan.goes);
          if (rank != scripted_rank) return dense;
          return std::make_unique<ScriptedExchange>(script, std::move(dense));
        });
    begin_weights(stream, model, step, batch_of(0, 2, config.context), [&](size_t parameter, const Tensor& whole) {
      initialize_parameter(stream, config, model.layout(), parameter, 3, 0.2, whole);
      if (!std::isfinite(how.weight) && model.layout().parameters()[parameter].name.ends_with("1.mlp.up_proj.weight"))
        whole.as<float>()[whole.size() - 1] = how.weight;
    });
    for (int64_t s = 0; s < steps; ++s) {
      const StepResult result = step.run(s, batch_of(s, 2 * how.micro_batches, config.context));
      if (rank > 0) continue;
      numbers.losses.push_back(result.loss);
      numbers.z_losses.push_back(result.z_loss);
      numbers.norms.push_back(result.gradient_norm);
      numbers.max_logits.push_back(result.max_logit);
      numbers.clipped_heads.push_back(result.clipped_heads);
      for (const UpdateFigures& figures : result.updates)
        numbers.updates.emplace_back(figures.group, figures.rms, figures.orthogonality_error.value_or(-1));
      numbers.refused.push_back(result.refused);
    }
    collect(step, numbers.state, mutex);
  };
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < how.ranks; ++rank) threads.emplace_back(work, rank);
  threads.clear();
  return numbers;
}

std::string name(const Case& how) {
  constexpr const char* shards[] = {"none", "optimizer", "gradients", "parameters"};
  return fmt::format("ranks {}, shard {}, {} micro-batches in {} lanes, tied {}", how.ranks,
                     shards[static_cast<int>(how.shard)], how.micro_batches, how.lanes, how.tied);
}

constexpr Shard levels[] = {Shard::none, Shard::optimizer, Shard::gradients, Shard::parameters};

TEST(RankBits, NeitherRanksNorShardingChangeABit) {
  for (const DType type : {DType::f32, DType::bf16})
    for (const bool tied : {false, true})
      for (const auto& [micro_batches, lanes] : {std::pair{8, 4}, {4, 4}, {12, 4}}) {
        const Numbers alone = run({.micro_batches = micro_batches, .lanes = lanes, .tied = tied, .type = type});
        ASSERT_EQ(alone.losses.size(), static_cast<size_t>(steps));
        EXPECT_LT(alone.losses.back(), alone.losses.front());
        for (const int ranks : {1, 2, 4})
          for (const Shard shard : levels) {
            const Case how{ranks, shard, micro_batches, lanes, tied, type};
            const Numbers numbers = run(how);
            EXPECT_EQ(numbers.losses, alone.losses) << name(how);
            EXPECT_EQ(numbers.norms, alone.norms) << name(how);
            EXPECT_EQ(numbers.state, alone.state) << name(how);
          }
      }
}

TEST(RankBits, RanksNeedNotBeAPowerOfTwo) {
  const Numbers alone = run({.micro_batches = 12, .lanes = 6});
  for (const int ranks : {3, 6})
    for (const Shard shard : levels) {
      const Case how{.ranks = ranks, .shard = shard, .micro_batches = 12, .lanes = 6};
      EXPECT_EQ(run(how), alone) << name(how);
    }
}

// Whole matrices of several blocks come from the runs of several ranks, and of fewer and more than there are ranks.
TEST(RankBits, EveryOptimizerKeepsItsBits) {
  std::vector<OptimizerSettings> optimizers(9);
  for (size_t i = 0; i < optimizers.size(); ++i) optimizers[i].learning_rate = 1e-2;
  optimizers[0].name = "muon";
  optimizers[1].name = "normuon";
  optimizers[1].muon = {.scale = "original", .coefficients = "polar-express", .steps = 4, .products = "f32"};
  optimizers[2].name = "ademamix";
  optimizers[3].name = "sgd";
  optimizers[4].name = "muon";
  optimizers[4].groups = {{.match = {"*self_attn*"}, .name = "sgd", .learning_rate = 1e-3},
                          {.match = {"*1.mlp.down_proj.weight"}, .name = "normuon", .weight_decay = 0}};
  optimizers[5].groups = {{.match = {"model.layers.0.mlp.up_proj.weight"}, .name = "muon"}};
  optimizers[6].name = "mars-m";
  optimizers[7].name = "shampoo";
  optimizers[7].shampoo.every = 2;
  optimizers[8].name = "soap";
  optimizers[8].soap = {.every = 1, .max_side = 200};
  for (const OptimizerSettings& optimizer : optimizers)
    for (const DType type : {DType::f32, DType::bf16}) {
      Case how{.type = type, .optimizer = optimizer, .ffn = 400};
      const Numbers alone = run(how);
      EXPECT_LT(alone.losses.back(), alone.losses.front()) << optimizer.name;
      for (const int ranks : {1, 2, 4})
        for (const Shard shard : levels) {
          how.ranks = ranks;
          how.shard = shard;
          const Numbers numbers = run(how);
          EXPECT_EQ(numbers.losses, alone.losses) << optimizer.name << ", " << name(how);
          EXPECT_EQ(numbers.norms, alone.norms) << optimizer.name << ", " << name(how);
          EXPECT_EQ(numbers.state, alone.state) << optimizer.name << ", " << name(how);
        }
    }
}

// Three groups, one of a learning rate of its own, recorded in every second step.
TEST(RankBits, FiguresOfUpdatesAreThoseOfAllRanks) {
  Case how{.optimizer = {.name = "muon", .learning_rate = 1e-2}, .ffn = 400};
  how.optimizer.groups = {{.match = {"*0.self_attn*"}, .name = "adamw", .learning_rate = 1e-3}};
  const Numbers without = run(how);
  how.updates_every = 2;
  const Numbers alone = run(how);
  ASSERT_EQ(alone.updates.size(), 3u) << "of one step of three";
  const char* names[] = {"adamw", "muon", "adamw_2"};
  for (size_t i = 0; i < 3; ++i) {
    const auto& [group, rms, error] = alone.updates[i];
    EXPECT_EQ(group, names[i]);
    if (i == 1) {
      EXPECT_NEAR(rms, 0.2, 0.05) << "Moonlight's scale";
      EXPECT_GT(error, 0.05);
    } else {
      EXPECT_GT(rms, 0.5) << "Adam's second step";
      EXPECT_LT(rms, 1.1);
      EXPECT_EQ(error, -1);
    }
  }
  EXPECT_EQ(alone.state, without.state) << "measuring changes nothing";
  for (const int ranks : {1, 2, 4})
    for (const Shard shard : levels) {
      how.ranks = ranks;
      how.shard = shard;
      EXPECT_EQ(run(how), alone) << name(how);
    }
}

TEST(RankBits, CautiousDecayKeepsItsBits) {
  for (const char* optimizer : {"adamw", "muon"}) {
    Case how{
        .optimizer = {.name = optimizer, .learning_rate = 1e-2, .weight_decay = 2}, .ffn = 400, .updates_every = 2};
    const Numbers decoupled = run(how);
    how.cautious_decay = true;
    const Numbers alone = run(how);
    EXPECT_NE(alone.state, decoupled.state);
    for (const int ranks : {1, 2, 4})
      for (const Shard shard : levels) {
        how.ranks = ranks;
        how.shard = shard;
        EXPECT_EQ(run(how), alone) << optimizer << ", " << name(how);
      }
  }
}

// Blocks of codes end where ranks' runs do, and rounding draws by element.
TEST(RankBits, MomentsInFewerBitsKeepTheirBits) {
  for (const char* optimizer : {"adamw", "ademamix", "sgd", "muon", "normuon", "mars-m"})
    for (const char* moments : {"bf16", "8-bit"}) {
      Case how{.optimizer = {.name = optimizer, .learning_rate = 1e-2, .moments = moments}, .ffn = 400};
      const std::string what = fmt::format("{}, {}, ", optimizer, moments);
      const Numbers alone = run(how);
      EXPECT_LT(alone.losses.back(), alone.losses.front()) << what;
      const std::string matrix = "model.layers.1.mlp.up_proj.weight";
      EXPECT_EQ(alone.state.contains("optimizer/first_moment_scale/" + matrix) ||
                    alone.state.contains("optimizer/momentum_scale/" + matrix),
                std::string_view(moments) == "8-bit")
          << what;
      how.optimizer.moments = "f32";
      EXPECT_NE(run(how).losses, alone.losses) << what;
      how.optimizer.moments = moments;
      for (const int ranks : {1, 2, 4})
        for (const Shard shard : levels) {
          how.ranks = ranks;
          how.shard = shard;
          const Numbers numbers = run(how);
          EXPECT_EQ(numbers.losses, alone.losses) << what << name(how);
          EXPECT_EQ(numbers.norms, alone.norms) << what << name(how);
          EXPECT_EQ(numbers.state, alone.state) << what << name(how);
        }
    }
}

TEST(RankBits, QkNormKeepsItsBits) {
  for (const DType type : {DType::f32, DType::bf16}) {
    const Numbers alone = run({.type = type, .qk_norm = true});
    EXPECT_TRUE(alone.state.contains("weights/model.layers.2.self_attn.k_norm.weight"));
    EXPECT_LT(alone.losses.back(), alone.losses.front());
    EXPECT_EQ(run({.type = type, .recompute = Recompute::block, .qk_norm = true}), alone);
    for (const int ranks : {2, 4})
      for (const Shard shard : levels) {
        const Case how{.ranks = ranks, .shard = shard, .type = type, .qk_norm = true};
        EXPECT_EQ(run(how), alone) << name(how);
      }
  }
}

TEST(RankBits, ZLossIsTheSameEverywhere) {
  const Numbers alone = run({.z_loss = 0.1}), without = run({});
  EXPECT_EQ(alone.losses.front(), without.losses.front()) << "the loss is the cross-entropy";
  EXPECT_GT(alone.z_losses.front(), 0);
  EXPECT_LT(alone.z_losses.back(), alone.z_losses.front());
  EXPECT_NE(alone.state, without.state);
  EXPECT_EQ(without.z_losses, std::vector<double>(steps, 0.0));
  for (const int ranks : {2, 4})
    for (const Shard shard : levels) {
      const Case how{.ranks = ranks, .shard = shard, .z_loss = 0.1};
      EXPECT_EQ(run(how), alone) << name(how);
    }
}

// Rows of a head lie in the runs of several ranks, and beside each other in one.
TEST(RankBits, QkClipKeepsItsBits) {
  for (const DType type : {DType::f32, DType::bf16}) {
    Case how{.type = type};
    const Numbers without = run(how);
    how.qk_clip = 0.9 * without.max_logits.front();
    const Numbers alone = run(how);
    EXPECT_EQ(alone.max_logits.front(), without.max_logits.front());
    EXPECT_EQ(without.clipped_heads, std::vector<int64_t>(steps, 0));
    EXPECT_GT(alone.clipped_heads.front(), 0);
    EXPECT_LT(alone.clipped_heads.front(), 3 * 4) << "not all of them";
    EXPECT_NE(alone.state, without.state);
    how.recompute = Recompute::block;
    EXPECT_EQ(run(how), alone) << "recomputed";
    for (const int ranks : {1, 2, 4})
      for (const Shard shard : levels) {
        how.ranks = ranks;
        how.shard = shard;
        EXPECT_EQ(run(how), alone) << name(how);
      }
  }
}

// What travels or is multiplied after a clip is made of the clipped weights.
TEST(RankBits, QkClipReachesCodesOfWeights) {
  Case how{.micro_batches = 4, .recipe = "halo1-int8", .qk_clip = 0.5};
  const Numbers alone = run(how);
  EXPECT_GT(alone.clipped_heads.front(), 0);
  how.shard = Shard::parameters;
  for (const int ranks : {1, 2, 4})
    for (const bool codes : {false, true}) {
      how.ranks = ranks;
      how.gather_codes = codes;
      EXPECT_EQ(run(how), alone) << name(how) << codes;
    }
}

// Rounding, signs, histories of statistics and learned steps are the same numbers wherever a micro-batch is computed,
// once or twice.
TEST(RankBits, RecipesKeepTheirBits) {
  for (const char* recipe :
       {"fp8-delayed", "quartet2", "quartet2-delayed", "quest-w4a4", "lsq-w3a4", "nvfp4-nvidia", "halo2-int8"}) {
    const Case one{.micro_batches = 4, .recipe = recipe};
    const Numbers alone = run(one);
    EXPECT_LT(alone.losses.back(), alone.losses.front()) << recipe;
    Case recomputed = one;
    recomputed.recompute = Recompute::block;
    EXPECT_EQ(run(recomputed), alone) << recipe << ", recomputed";
    for (const int ranks : {2, 4})
      for (const Shard shard : {Shard::none, Shard::parameters}) {
        Case how = one;
        how.ranks = ranks;
        how.shard = shard;
        const Numbers numbers = run(how);
        EXPECT_EQ(numbers.losses, alone.losses) << recipe << ", " << name(how);
        EXPECT_EQ(numbers.norms, alone.norms) << recipe << ", " << name(how);
        EXPECT_EQ(numbers.state, alone.state) << recipe << ", " << name(how);
      }
  }
}

TEST(RankBits, BlocksOfSeveralRecipesAreComputedAgain) {
  Case how{.micro_batches = 4, .recipe = "fp8", .width = 96, .bf16_among = true};
  const Numbers kept = run(how);
  how.recompute = Recompute::block;
  EXPECT_EQ(run(how), kept);
}

// What a rank makes of its own rows under the scale of all is what a layer makes of the whole weight; codes and values
// take turns in the same memory.
TEST(RankBits, WeightsMayBeGatheredAsCodes) {
  for (const char* recipe : {"halo0-fp8", "halo1-int8", "halo2-int8", "halo1-fp6", "fp8", "fp8-delayed"})
    for (const int64_t width : {128, 96}) {
      Case how{.micro_batches = 4,
               .recipe = recipe,
               .width = width,
               .bf16_among = width == 96,
               .cage = std::string_view(recipe) == "halo1-int8" ? 10.0 : 0.0};
      const Numbers alone = run(how);
      EXPECT_LT(alone.losses.back(), alone.losses.front()) << recipe;
      how.shard = Shard::parameters;
      for (const int ranks : {1, 2, 4})
        for (const bool codes : {false, true}) {
          how.ranks = ranks;
          how.gather_codes = codes;
          how.recompute = ranks == 2 ? Recompute::block : Recompute::none;
          const Numbers numbers = run(how);
          EXPECT_EQ(numbers.losses, alone.losses) << recipe << width << codes << ", " << name(how);
          EXPECT_EQ(numbers.norms, alone.norms) << recipe << width << codes << ", " << name(how);
          EXPECT_EQ(numbers.state, alone.state) << recipe << width << codes << ", " << name(how);
        }
    }
}

// The negative control: with two lanes instead of four the same values are added in another order.
TEST(RankBits, AnotherTreeChangesThem) {
  const Numbers four = run({.ranks = 2, .lanes = 4}), two = run({.ranks = 2, .lanes = 2});
  EXPECT_NE(four.state, two.state);
  EXPECT_NEAR(four.losses.back(), two.losses.back(), 1e-4);
}

TEST(RankBits, ABf16WireRoundsAndLearnsAlike) {
  const Numbers exact = run({.ranks = 2});
  for (const Shard shard : levels) {
    const Numbers rounded = run({.ranks = 2, .shard = shard, .wire = Wire::bf16});
    EXPECT_NE(rounded.state, exact.state);
    EXPECT_NEAR(rounded.losses.back(), exact.losses.back(), 2e-2);
  }
}

// A NaN or an infinity on one rank: no rank applies the step.
TEST(RankBits, WhatIsNotFiniteOnOneRankIsRefusedByAll) {
  for (const float poison : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    for (const Shard shard : levels)
      for (const int rank : {0, 1, 3}) {
        const Case how{.ranks = 4, .shard = shard};
        const Numbers numbers = run(how, test::poisoned(poison, 1, [](int64_t s) { return s == 1; }), rank);
        EXPECT_EQ(numbers.refused, (std::vector{false, true, false})) << name(how);
        for (const auto& [entry, values] : numbers.state)
          for (const float value : values) ASSERT_TRUE(std::isfinite(value)) << entry << ", " << name(how);
      }
}

// A weight of one rank that is no number leaves no scale to share.
TEST(RankBits, WhatIsNotFiniteInAWeightIsRefusedByAll) {
  for (const float weight : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    for (const char* recipe : {"halo1-int8", "fp8"}) {
      const Numbers numbers = run({.ranks = 2,
                                   .shard = Shard::parameters,
                                   .micro_batches = 4,
                                   .recipe = recipe,
                                   .gather_codes = true,
                                   .weight = weight});
      EXPECT_EQ(numbers.refused, (std::vector{true, true, true})) << recipe << weight;
    }
}

TEST(RankBits, WorkThatTheRanksDoNotDivideIsRefused) {
  const ParameterLayout layout(
      {.vocabulary = 40, .width = 48, .layers = 1, .heads = 4, .kv_heads = 2, .head_dim = 12, .ffn = 80});
  const auto plan = [&](int ranks, int64_t micro_batches, int64_t lanes) {
    ShardPlan(layout, Shard::none, 0, ranks, micro_batches, lanes);
  };
  expect_error(ErrorKind::configuration, {"do not divide the lanes", "4 for 3 ranks", "3 times a power of two"},
               [&] { plan(3, 12, 4); });
  expect_error(ErrorKind::configuration, {"do not divide the lanes", "6 for 2 ranks"}, [&] { plan(2, 12, 6); });
  expect_error(ErrorKind::configuration, {"do not divide the lanes", "batch.lanes", "4 for 8 ranks"},
               [&] { plan(8, 16, 4); });
  expect_error(ErrorKind::configuration, {"do not divide the micro-batches", "batch.micro", "6 for 4 ranks"},
               [&] { plan(4, 6, 4); });
}

// Each element has one owner, cuts lie on blocks, and where asked between rows, and the blocks are numbered through.
TEST(RankBits, AllIsOwnedOnce) {
  const std::vector<int64_t> sizes = {10000, 5, 4096, 49920, 0, 12289}, rows = {80, 1, 64, 96, 1, 1};
  const std::vector<std::vector<int>> buckets = {{5, 3}, {1}, {4, 0, 2}};
  for (const bool whole_rows : {false, true})
    for (const int ranks : {1, 2, 3, 4, 8, 32}) {
      const Partition partition(sizes, buckets, ranks, whole_rows ? rows : std::vector<int64_t>());
      std::vector<std::vector<int>> owners;
      for (const int64_t size : sizes) owners.emplace_back(static_cast<size_t>(size), -1);
      std::vector<int64_t> blocks;
      for (int rank = 0; rank < ranks; ++rank) {
        int64_t in_buckets = 0, in_all = 0;
        for (int bucket = 0; bucket < partition.buckets(); ++bucket)
          for (const nibble::Run& run : partition.runs(bucket, rank)) in_buckets += run.count;
        for (const nibble::Run& run : partition.runs(rank)) {
          in_all += run.count;
          EXPECT_EQ(run.first % block_elements, 0);
          EXPECT_EQ(run.first % (whole_rows ? rows[static_cast<size_t>(run.tensor)] : 1), 0);
          for (int64_t i = run.first; i < run.first + run.count; ++i) {
            int& owner = owners[static_cast<size_t>(run.tensor)][static_cast<size_t>(i)];
            EXPECT_EQ(owner, -1);
            owner = rank;
          }
        }
        EXPECT_EQ(in_buckets, in_all);
        const std::vector<int64_t> own = partition.blocks_of(rank);
        blocks.insert(blocks.end(), own.begin(), own.end());
      }
      for (const std::vector<int>& tensor : owners)
        for (const int owner : tensor) EXPECT_GE(owner, 0);
      std::ranges::sort(blocks);
      ASSERT_EQ(std::ssize(blocks), partition.blocks());
      for (int64_t i = 0; i < std::ssize(blocks); ++i) EXPECT_EQ(blocks[static_cast<size_t>(i)], i);
    }
}

}  // namespace
}  // namespace nibble
