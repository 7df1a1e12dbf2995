// State that lies on the host and passes through a device gives the bits of state that lies there: after steps of each
// optimizer, in whole runs, and in their checkpoints.
#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "optim/adamw.hpp"
#include "optim/ademamix.hpp"
#include "optim/mars_m.hpp"
#include "optim/muon.hpp"
#include "optim/sgd.hpp"
#include "tensor/error.hpp"
#include "tensor/pinned_arena.hpp"
#include "tests/cuda/on_device.hpp"
#include "tests/optim/parameters.hpp"
#include "tests/trainer/small_run.hpp"

namespace nibble {
namespace {

using testing::Draws, testing::on_host, testing::same_bits;

/// A parameter, or a run of its elements from `first` on.
struct Part {
  int64_t rows, cols;
  bool decay = false, cautious = false;
  int64_t first = 0, count = 0;  ///< 0: the whole
};

enum Level { none, moments, masters, levels };

/// The same parameters for each level of what lies on the host.
class Twins {
 public:
  Twins(Stream& device, const std::vector<Part>& parts) : device_(device), lists(levels) {
    for (size_t i = 0; i < parts.size(); ++i)
      infos_.push_back({.name = "parameter" + std::to_string(i), .rows = parts[i].rows, .cols = parts[i].cols});
    for (int level = 0; level < levels; ++level) {
      meters_.emplace_back(std::vector<ParameterInfo>(infos_.begin(), infos_.end()));
      std::vector<OptimizedParameter>& list = lists[static_cast<size_t>(level)];
      for (size_t i = 0; i < parts.size(); ++i) {
        const Part& part = parts[i];
        list.push_back({.info = &infos_[i],
                        .master = {},
                        .gradient = {},
                        .working = {},
                        .decay = part.decay,
                        .cautious = part.cautious,
                        .owned = part.count > 0,
                        .first = part.first,
                        .working_first = part.first,
                        .number = static_cast<int>(i),
                        .meter = &meters_.back()});
      }
      const auto rows = [&](size_t i) { return parts[i].count > 0 ? 1 : parts[i].rows; };
      const auto cols = [&](size_t i) { return parts[i].count > 0 ? parts[i].count : parts[i].cols; };
      const auto lay_out_masters = [&](auto& arena) {
        for (size_t i = 0; i < parts.size(); ++i) list[i].master = arena.take_packed(DType::f32, rows(i), cols(i));
      };
      if (level == masters) pinned_.emplace_back("test", lay_out_masters);
      else memory_.emplace_back("test", lay_out_masters, Place::device);
      memory_.emplace_back(
          "test",
          [&](Arena& arena) {
            for (size_t i = 0; i < parts.size(); ++i) {
              list[i].gradient = arena.take_packed(DType::f32, rows(i), cols(i));
              list[i].working = arena.take(DType::bf16, parts[i].rows, parts[i].cols);
            }
          },
          Place::device);
    }
    draw(&OptimizedParameter::master, 1);
  }

  void draw_gradients() { draw(&OptimizedParameter::gradient, 0.1f); }
  void measure(bool on) {
    for (UpdateMeter& meter : meters_) {
      if (on) meter.start();
      else meter.stop();
    }
  }
  std::vector<double> squares(int level) {
    const std::span<double> of_blocks = meters_[static_cast<size_t>(level)].squares();
    return {of_blocks.begin(), of_blocks.end()};
  }

 private:
  /// The same for all levels.
  void draw(Tensor OptimizedParameter::*tensor, float scale) {
    for (size_t i = 0; i < infos_.size(); ++i) {
      const Tensor& first = lists[0][i].*tensor;
      const OwnedTensor drawn(DType::f32, first.rows, first.cols);
      for (int64_t j = 0; j < first.size(); ++j) drawn.view().as<float>()[j] = scale * draws_();
      for (const std::vector<OptimizedParameter>& list : lists) copy(device_, drawn, list[i].*tensor);
      device_.wait();
    }
  }

  Stream& device_;
  std::deque<ParameterInfo> infos_;
  std::deque<UpdateMeter> meters_;
  std::deque<Arena> memory_;
  std::deque<PinnedArena> pinned_;
  Draws draws_{7};

 public:
  std::vector<std::vector<OptimizedParameter>> lists;
};

class OffloadedOptimizers : public ::testing::Test {
 protected:
  using Make = std::function<std::unique_ptr<Optimizer>(std::vector<OptimizedParameter>, const MomentSettings&)>;

  template <class O, class Settings>
  static Make maker(Settings settings) {
    return [settings](std::vector<OptimizedParameter> list, const MomentSettings& of_moments) mutable {
      settings.moments = of_moments;
      return std::make_unique<O>(std::move(list), settings);
    };
  }

  void take_steps(const Make& make, const std::vector<Part>& parts) {
    for (const MomentPrecision precision : {MomentPrecision::f32, MomentPrecision::bf16, MomentPrecision::eight_bit}) {
      SCOPED_TRACE(moment_precision_names[static_cast<size_t>(precision)]);
      Twins twins(device, parts);
      std::vector<std::unique_ptr<Optimizer>> optimizers;
      for (int level = 0; level < levels; ++level)
        optimizers.push_back(make(twins.lists[static_cast<size_t>(level)], {.precision = precision,
                                                                            .seed = 0x123456789abcdef,
                                                                            .offloaded = level > none,
                                                                            .portion = 2 * block_elements}));
      for (int64_t step = 1; step <= 2; ++step) {
        twins.draw_gradients();
        twins.measure(step == 2);
        for (const std::unique_ptr<Optimizer>& optimizer : optimizers)
          optimizer->step(device, {.step = step, .learning_rate = 1e-2, .gradient_scale = 0.75});
      }
      for (const int level : {moments, masters}) {
        SCOPED_TRACE(level);
        EXPECT_EQ(twins.squares(level), twins.squares(none));
        const auto here = static_cast<size_t>(level);
        for (size_t i = 0; i < parts.size(); ++i) {
          const OptimizedParameter &there = twins.lists[none][i], &seen = twins.lists[here][i];
          EXPECT_TRUE(same_bits(on_host(device, seen.master), on_host(device, there.master))) << i;
          EXPECT_TRUE(same_bits(on_host(device, seen.working), on_host(device, there.working))) << i;
        }
        StateList expected, list;
        optimizers[none]->state(expected);
        optimizers[here]->state(list);
        ASSERT_EQ(list.entries().size(), expected.entries().size());
        for (size_t i = 0; i < list.entries().size(); ++i) {
          const StateList::Entry& entry = list.entries()[i];
          EXPECT_EQ(entry.name, expected.entries()[i].name);
          EXPECT_EQ(entry.first, expected.entries()[i].first);
          const bool of_rows = entry.name.find("row_second_moment") != std::string::npos;
          EXPECT_EQ(entry.tensor.place, of_rows ? Place::device : Place::host) << entry.name;
          EXPECT_TRUE(same_bits(on_host(device, entry.tensor), on_host(device, expected.entries()[i].tensor)))
              << entry.name;
        }
      }
    }
  }

  Stream device{2, Place::device};
};

// Smaller and larger than a portion, and several to one.
const std::vector<Part> several = {{.rows = 1, .cols = 3, .decay = true},
                                   {.rows = 70, .cols = 264, .decay = true, .cautious = true},
                                   {.rows = 1, .cols = 10007, .decay = true},
                                   {.rows = 64, .cols = 128},
                                   {.rows = 300, .cols = 97, .decay = true, .first = 4096, .count = 12288},
                                   {.rows = 2, .cols = 3000, .first = 4096, .count = 1904}};
const std::vector<Part> matrices = {
    {.rows = 12, .cols = 40, .decay = true}, {.rows = 133, .cols = 170}, {.rows = 64, .cols = 96, .cautious = true}};

TEST_F(OffloadedOptimizers, AdamW) { take_steps(maker<AdamW>(AdamWSettings{}), several); }
TEST_F(OffloadedOptimizers, AdEMAMix) { take_steps(maker<AdEMAMix>(AdEMAMixSettings{.warmup = 5}), several); }
TEST_F(OffloadedOptimizers, Sgd) { take_steps(maker<Sgd>(SgdSettings{}), several); }
TEST_F(OffloadedOptimizers, SgdWithoutMomentum) { take_steps(maker<Sgd>(SgdSettings{.momentum = 0}), several); }
TEST_F(OffloadedOptimizers, Muon) { take_steps(maker<Muon>(MuonSettings{}), matrices); }
TEST_F(OffloadedOptimizers, NorMuon) { take_steps(maker<Muon>(MuonSettings{.row_beta2 = 0.95}), matrices); }
TEST_F(OffloadedOptimizers, MarsM) { take_steps(maker<MarsM>(MarsMSettings{}), matrices); }

TEST_F(OffloadedOptimizers, TakeTheDevicesMemoryForTwoPortions) {
  Twins twins(device, {{.rows = 100, .cols = 640}});
  const MemoryTable before = held_memory(Place::device), before_on_host = held_memory();
  const AdamW optimizer(twins.lists[moments], {.moments = {.offloaded = true, .portion = 2 * block_elements}});
  EXPECT_EQ(held_memory_since(before, Place::device),
            (MemoryTable{{"portions of offloaded state", 2 * (2 * block_elements * 2 * 4)}}));
  EXPECT_EQ(held_memory_since(before_on_host), (MemoryTable{{"pinned optimizer moments", 64000 * 2 * 4}}));
}

class OffloadingRuns : public test::SmallRunTest {
 protected:
  Settings on_device(const std::string& run, const std::vector<std::string>& how, const std::string& level) const {
    std::vector<std::string> overrides = {"model.layers=1",  "batch.tokens=64",        "batch.micro=1",
                                          "steps=4",         "validation.every=0",     "data.validation=",
                                          "run.device=cuda", "run.checkpoint.every=1", "optimizer.offload=" + level};
    overrides.insert(overrides.end(), how.begin(), how.end());
    return settings(run, overrides);
  }
  /// A copy of a run goes on from its first checkpoint, with another level in each step: so the library multiplies
  /// alike, and each level reads what the one before has saved.
  void change_levels(const std::string& run, const std::vector<std::string>& how) {
    SCOPED_TRACE(run);
    TrainingRun(on_device(run, how, "none"), {}).run();
    const std::string copy = run + "-copy";
    std::filesystem::copy(path(run), path(copy), std::filesystem::copy_options::recursive);
    for (const char* later : {"2", "3", "4"})
      std::filesystem::remove_all(path(copy) + "/checkpoints/step_0000000" + later);
    int64_t step = 1;
    for (const char* level : {"masters", "moments", "none"}) {
      TrainingRun resumed(on_device(copy, how, level), {.resume = true, .stop_at = step + 1});
      ASSERT_EQ(resumed.step(), step);
      resumed.run();
      ++step;
    }
    EXPECT_EQ(rows(copy), rows(run));
  }
};

TEST_F(OffloadingRuns, LearnTheSameToTheLastDigit) {
  change_levels("adamw", {"optimizer.moments=8-bit"});
  change_levels("muon", {"optimizer.name=muon", "shard=parameters"});
}

TEST_F(OffloadingRuns, AreRefusedWhereNothingPasses) {
  const auto refusal = [&](const std::vector<std::string>& how) {
    try {
      settings("run", how);
    } catch (const Error& error) {
      return error.detail();
    }
    return ErrorDetail{.kind = ErrorKind::internal, .what = "nothing was refused"};
  };
  const ErrorDetail processor = refusal({"optimizer.offload=moments"});
  EXPECT_EQ(processor.kind, ErrorKind::configuration);
  EXPECT_EQ(processor.what, "the state of a processor's optimizer is in the host's memory already");
  EXPECT_NE(processor.where.find("run.device"), std::string::npos) << processor.where;
  for (const std::string how : {"optimizer.name=soap", "optimizer.qk_clip=100", "precision.cage.strength=1"})
    EXPECT_EQ(refusal({"run.device=cuda", "optimizer.offload=masters", how}).kind, ErrorKind::configuration) << how;
}

}  // namespace
}  // namespace nibble
