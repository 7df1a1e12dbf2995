// Steps of optimizers give the same bits on a device as on the host: masters, working copies, moments, meters.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "optim/adamw.hpp"
#include "optim/ademamix.hpp"
#include "optim/mars_m.hpp"
#include "optim/muon.hpp"
#include "optim/sgd.hpp"
#include "optim/shampoo.hpp"
#include "optim/soap.hpp"
#include "tensor/error.hpp"
#include "tensor/fill.hpp"
#include "tests/cuda/on_device.hpp"
#include "tests/optim/parameters.hpp"

namespace nibble {
namespace {

using testing::Draws, testing::on_host, testing::same_bits;

/// A parameter, or a run of its elements from `first` on.
struct Part {
  int64_t rows, cols;
  bool decay = false, cautious = false;
  DType working = DType::bf16;
  int64_t first = 0, count = 0;  ///< 0: the whole
};

/// The same parameters on the host and on a device.
class Sides {
 public:
  Sides(Stream& device, const std::vector<Part>& parts) : device_(device) {
    for (size_t i = 0; i < parts.size(); ++i)
      infos_.push_back({.name = "parameter" + std::to_string(i), .rows = parts[i].rows, .cols = parts[i].cols});
    meters_.emplace_back(std::vector<ParameterInfo>(infos_.begin(), infos_.end()));
    meters_.emplace_back(std::vector<ParameterInfo>(infos_.begin(), infos_.end()));
    for (const Place place : {Place::host, Place::device}) {
      const size_t side = place == Place::device;
      memory_[side] = Arena(
          "test", [&](Arena& arena) { lists[side] = lay_out(arena, parts, meters_[side]); }, place);
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      draw(lists[0][i].master, 1);
      before_.emplace_back(DType::f32, lists[0][i].master.rows, lists[0][i].master.cols);
      std::copy_n(lists[0][i].master.as<float>(), before_[i].view().size(), before_[i].view().as<float>());
      copy(device_, lists[0][i].master, lists[1][i].master);
    }
    device_.wait();
  }

  void draw_gradients() {
    for (size_t i = 0; i < lists[0].size(); ++i) {
      draw(lists[0][i].gradient, std::pow(0.1f, static_cast<float>(i % 4)));
      copy(device_, lists[0][i].gradient, lists[1][i].gradient);
    }
    device_.wait();
  }

  /// With the paddings of working copies.
  void expect_same() const {
    for (size_t i = 0; i < lists[0].size(); ++i) {
      EXPECT_TRUE(same_bits(on_host(device_, lists[1][i].master), lists[0][i].master)) << "master " << i;
      EXPECT_TRUE(same_bits(on_host(device_, padded(lists[1][i].working)), padded(lists[0][i].working)))
          << "working copy " << i;
    }
  }
  void expect_same(Optimizer& host, Optimizer& device) const {
    expect_same();
    StateList here, there;
    host.state(here);
    device.state(there);
    ASSERT_EQ(here.entries().size(), there.entries().size());
    for (size_t i = 0; i < here.entries().size(); ++i) {
      EXPECT_EQ(there.entries()[i].name, here.entries()[i].name);
      EXPECT_EQ(there.entries()[i].tensor.place, Place::device);
      EXPECT_TRUE(same_bits(on_host(device_, there.entries()[i].tensor), here.entries()[i].tensor))
          << here.entries()[i].name;
    }
  }
  /// The largest difference of masters between the sides.
  double difference() const {
    double most = 0;
    for (size_t i = 0; i < lists[0].size(); ++i)
      most = std::max(most, largest_difference(on_host(device_, lists[1][i].master), lists[0][i].master));
    return most;
  }
  /// The largest change of the host's masters.
  double change() const {
    double most = 0;
    for (size_t i = 0; i < lists[0].size(); ++i)
      most = std::max(most, largest_difference(lists[0][i].master, before_[i]));
    return most;
  }

  UpdateMeter& meter(size_t side) { return meters_[side]; }

  std::vector<OptimizedParameter> lists[2];

 private:
  std::vector<OptimizedParameter> lay_out(Arena& arena, const std::vector<Part>& parts, UpdateMeter& meter) const {
    std::vector<OptimizedParameter> list;
    for (size_t i = 0; i < parts.size(); ++i) {
      const Part& part = parts[i];
      const bool run = part.count > 0;
      const int64_t rows = run ? 1 : part.rows, cols = run ? part.count : part.cols;
      list.push_back({.info = &infos_[i],
                      .master = arena.take_packed(DType::f32, rows, cols),
                      .gradient = arena.take_packed(DType::f32, rows, cols),
                      .working = arena.take(part.working, part.rows, part.cols),
                      .decay = part.decay,
                      .cautious = part.cautious,
                      .owned = run,
                      .first = part.first,
                      .working_first = part.first,
                      .number = static_cast<int>(i),
                      .meter = &meter});
    }
    return list;
  }
  void draw(const Tensor& values, float scale) {
    for (int64_t i = 0; i < values.size(); ++i) values.as<float>()[i] = scale * draws_();
  }
  static double largest_difference(const Tensor& a, const Tensor& b) {
    double most = 0;
    for (int64_t i = 0; i < a.size(); ++i)
      most = std::max(most, std::abs(static_cast<double>(a.as<float>()[i]) - static_cast<double>(b.as<float>()[i])));
    return most;
  }
  static Tensor padded(Tensor matrix) {
    matrix.cols = matrix.stride;
    return matrix;
  }

  Stream& device_;
  std::deque<ParameterInfo> infos_;
  std::deque<UpdateMeter> meters_;
  Arena memory_[2];
  std::vector<OwnedTensor> before_;  ///< the masters
  Draws draws_{3};
};

const std::vector<Part> parts = {
    {.rows = 1, .cols = 1, .decay = true},
    {.rows = 3, .cols = 7, .working = DType::f32},
    {.rows = 70, .cols = 264, .decay = true, .cautious = true},
    {.rows = 1, .cols = 10007, .decay = true},
    {.rows = 301, .cols = 33, .working = DType::f32},
    {.rows = 64, .cols = 128, .decay = true},
    {.rows = 5000, .cols = 1},
    {.rows = 130, .cols = 97, .decay = true, .cautious = true, .first = 4096, .count = 8192},
    {.rows = 130, .cols = 100, .decay = true, .first = 8192, .count = 4808},
    {.rows = 2, .cols = 3000, .decay = true, .first = 4096, .count = 1904},
};

class OptimizersOnDevice : public ::testing::Test {
 protected:
  using Make = std::function<std::unique_ptr<Optimizer>(std::vector<OptimizedParameter>, const MomentSettings&)>;

  template <class O, class Settings>
  static Make maker(Settings settings) {
    return [settings](std::vector<OptimizedParameter> list, const MomentSettings& moments) mutable {
      settings.moments = moments;
      return std::make_unique<O>(std::move(list), settings);
    };
  }

  void take_ten_steps(const Make& make) {
    for (const MomentPrecision precision : {MomentPrecision::f32, MomentPrecision::bf16, MomentPrecision::eight_bit}) {
      SCOPED_TRACE(moment_precision_names[static_cast<size_t>(precision)]);
      Sides sides(device, parts);
      const MomentSettings moments{.precision = precision, .seed = 0x123456789abcdef};
      const std::unique_ptr<Optimizer> here = make(sides.lists[0], moments), there = make(sides.lists[1], moments);
      for (int64_t step = 1; step <= 10; ++step) {
        sides.draw_gradients();
        const bool measured = step == 4 || step == 10;
        for (const size_t side : {0u, 1u})
          if (measured) sides.meter(side).start();
          else sides.meter(side).stop();
        const StepContext context{
            .step = step, .learning_rate = 1e-2 * static_cast<double>(step), .gradient_scale = 0.75};
        here->step(host, context);
        there->step(device, context);
        if (!measured) continue;
        const std::span<const double> expected = sides.meter(0).squares(), seen = sides.meter(1).squares();
        EXPECT_TRUE(std::equal(expected.begin(), expected.end(), seen.begin())) << step;
        EXPECT_GT(expected[0], 0);
      }
      sides.expect_same(*here, *there);
    }
  }

  Stream host{2}, device{2, Place::device};
};

TEST_F(OptimizersOnDevice, AdamW) { take_ten_steps(maker<AdamW>(AdamWSettings{})); }
TEST_F(OptimizersOnDevice, AdEMAMix) { take_ten_steps(maker<AdEMAMix>(AdEMAMixSettings{.warmup = 5})); }
TEST_F(OptimizersOnDevice, Sgd) { take_ten_steps(maker<Sgd>(SgdSettings{})); }
TEST_F(OptimizersOnDevice, SgdWithoutMomentum) { take_ten_steps(maker<Sgd>(SgdSettings{.momentum = 0})); }

TEST_F(OptimizersOnDevice, MasterIsRoundedIntoWorkingCopies) {
  Sides sides(device, parts);
  refresh_working_copies(host, sides.lists[0]);
  refresh_working_copies(device, sides.lists[1]);
  sides.expect_same();
}

// Differences are found.
TEST_F(OptimizersOnDevice, AnotherSeedRoundsOtherwise) {
  Sides sides(device, parts);
  const MomentSettings one{.precision = MomentPrecision::bf16, .seed = 1}, other{.precision = MomentPrecision::bf16};
  AdamW here(sides.lists[0], {.moments = one}), there(sides.lists[1], {.moments = other});
  for (int64_t step = 1; step <= 2; ++step) {
    sides.draw_gradients();
    here.step(host, {.step = step, .learning_rate = 1e-2});
    there.step(device, {.step = step, .learning_rate = 1e-2});
  }
  for (size_t i = 1; i < parts.size(); ++i)
    EXPECT_FALSE(same_bits(on_host(device, sides.lists[1][i].master), sides.lists[0][i].master)) << i;
}

TEST_F(OptimizersOnDevice, MomentsAreInTheLedgerOfTheDevice) {
  const Sides sides(device, {{.rows = 100, .cols = 64}});
  const MemoryTable before = held_memory(Place::device);
  const AdamW optimizer(sides.lists[1], {});
  EXPECT_EQ(held_memory_since(before, Place::device).at("optimizer moments"), size_t{2 * 6400 * 4});
}

const std::vector<Part> matrices = {{.rows = 12, .cols = 40, .decay = true},
                                    {.rows = 133, .cols = 17},
                                    {.rows = 24, .cols = 24, .decay = true, .cautious = true},
                                    {.rows = 70, .cols = 300, .decay = true, .working = DType::f32},
                                    {.rows = 1, .cols = 30, .decay = true}};

/// Products of a device add in another order than the host's. That changes directions by some roundings of the
/// operands, which the iteration, whose first polynomials are steep, makes larger: of f32 by less than 1e-3 of what
/// masters move, of bf16 by less than a tenth.
class MatrixOptimizersOnDevice : public OptimizersOnDevice {
 protected:
  template <class O, class Settings>
  void take_three_steps(Settings settings, DType operands) {
    const double bound = operands == DType::f32 ? 1e-3 : 0.1;
    settings.newton_schulz.operands = operands;
    for (const MomentPrecision precision : {MomentPrecision::f32, MomentPrecision::bf16, MomentPrecision::eight_bit}) {
      SCOPED_TRACE(moment_precision_names[static_cast<size_t>(precision)]);
      settings.moments = {.precision = precision, .seed = 5};
      Sides sides(device, matrices);
      const ParameterShares of_two{.threads = 2};
      O here(sides.lists[0], settings, of_two), there(sides.lists[1], settings, of_two);
      for (int64_t step = 1; step <= 3; ++step) {
        sides.draw_gradients();
        for (const size_t side : {0u, 1u}) sides.meter(side).start();
        here.step(host, {.step = step, .learning_rate = 0.01, .gradient_scale = 0.5});
        there.step(device, {.step = step, .learning_rate = 0.01, .gradient_scale = 0.5});
      }
      EXPECT_LT(sides.difference(), bound * sides.change());
      for (size_t i = 0; i < matrices.size(); ++i)
        EXPECT_NEAR(sides.meter(1).orthogonality_errors()[i], sides.meter(0).orthogonality_errors()[i], bound);
      StateList expected, seen;
      here.state(expected);
      there.state(seen);
      for (size_t i = 0; i < expected.entries().size(); ++i) {
        const std::string& name = expected.entries()[i].name;
        if (name.find("row_second_moment") != std::string::npos) continue;  // of directions
        EXPECT_TRUE(same_bits(on_host(device, seen.entries()[i].tensor), expected.entries()[i].tensor)) << name;
      }
    }
  }
};

TEST_F(MatrixOptimizersOnDevice, Muon) {
  take_three_steps<Muon>(MuonSettings{}, DType::f32);
  take_three_steps<Muon>(MuonSettings{}, DType::bf16);
}
TEST_F(MatrixOptimizersOnDevice, NorMuon) { take_three_steps<Muon>(MuonSettings{.row_beta2 = 0.95}, DType::f32); }
TEST_F(MatrixOptimizersOnDevice, MarsM) { take_three_steps<MarsM>(MarsMSettings{}, DType::f32); }

/// Of which sides of more than 100 have no factor.
const std::vector<Part> two_sided = {{.rows = 12, .cols = 40, .decay = true},
                                     {.rows = 133, .cols = 17},
                                     {.rows = 24, .cols = 24, .decay = true, .cautious = true},
                                     {.rows = 60, .cols = 100, .decay = true, .working = DType::f32},
                                     {.rows = 130, .cols = 101}};

/// Products of a device add in another order than the host's; what is decomposed is decomposed by the host.
class TwoSidedOnDevice : public OptimizersOnDevice {
 protected:
  template <class O, class Settings>
  void take_ten_steps(Settings settings) {
    settings.every = 3;
    settings.max_side = 100;
    Sides sides(device, two_sided);
    const ParameterShares of_two{.threads = 2};
    O here(sides.lists[0], settings, of_two), there(sides.lists[1], settings, of_two);
    for (int64_t step = 1; step <= 10; ++step) {
      sides.draw_gradients();
      here.step(host, {.step = step, .learning_rate = 0.01, .gradient_scale = 0.5});
      there.step(device, {.step = step, .learning_rate = 0.01, .gradient_scale = 0.5});
      // Where no gradient reaches yet, SOAP's first eigenvectors are anybody's choice.
      if (step == 1) bring(here, there);
      expect_near(here, there, step);
    }
    EXPECT_LT(sides.difference(), 1e-3 * sides.change());
  }

 private:
  static std::vector<StateList::Entry> state_of(Optimizer& optimizer) {
    StateList list;
    optimizer.state(list);
    return list.entries();
  }
  void bring(Optimizer& here, Optimizer& there) {
    const std::vector<StateList::Entry> from = state_of(here), to = state_of(there);
    for (size_t i = 0; i < from.size(); ++i) copy(device, from[i].tensor, to[i].tensor);
    device.wait();
  }
  /// What both have in the basis of the weights.
  void expect_near(Optimizer& here, Optimizer& there, int64_t step) {
    const std::vector<StateList::Entry> expected = state_of(here), seen = state_of(there);
    ASSERT_EQ(seen.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      const std::string& name = expected[i].name;
      EXPECT_EQ(seen[i].name, name);
      ASSERT_EQ(seen[i].tensor.place, Place::device) << name;
      if (name.find("factor") == std::string::npos && name.find("/first_moment") == std::string::npos) continue;
      const OwnedTensor values = on_host(device, seen[i].tensor);
      double largest = 0, error = 0;
      for (int64_t j = 0; j < values.view().size(); ++j) {
        const double value = expected[i].tensor.as<float>()[j];
        largest = std::max(largest, std::abs(value));
        error = std::max(error, std::abs(values.view().as<float>()[j] - value));
      }
      EXPECT_LE(error, 1e-5 * largest) << name << ", step " << step;
    }
  }
};

TEST_F(TwoSidedOnDevice, Soap) { take_ten_steps<Soap>(SoapSettings{.beta1 = 0.9, .factor_beta = 0.8}); }
TEST_F(TwoSidedOnDevice, Shampoo) {
  for (const Grafting grafting : {Grafting::adam, Grafting::sgd, Grafting::none})
    take_ten_steps<Shampoo>(ShampooSettings{.beta1 = 0.9, .epsilon = 1e-3, .grafting = grafting});
}

TEST_F(TwoSidedOnDevice, RefuseFactorsThatAreNotFinite) {
  Sides sides(device, {{.rows = 4, .cols = 4}});
  fill(device, sides.lists[1][0].gradient, std::numeric_limits<float>::infinity());
  Soap soap(sides.lists[1], {});
  Shampoo shampoo(sides.lists[1], {.every = 1});
  for (Optimizer* const optimizer : {static_cast<Optimizer*>(&soap), static_cast<Optimizer*>(&shampoo)}) try {
      optimizer->step(device, {.step = 1, .learning_rate = 1e-2});
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::numerics) << error.what();
      EXPECT_EQ(error.detail().where, "parameter0: left factor");
    }
}

}  // namespace
}  // namespace nibble
