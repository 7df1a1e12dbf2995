// Moments in fewer bits: what codes mean, how they round, and optimizers that keep them.
#include "optim/moment.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <set>

#include "optim/adamw.hpp"
#include "optim/ademamix.hpp"
#include "optim/cpu/moment_tile.hpp"
#include "optim/mars_m.hpp"
#include "optim/muon.hpp"
#include "optim/sgd.hpp"
#include "tensor/error.hpp"
#include "tests/optim/parameters.hpp"
#include "tests/optim/recorded_steps.hpp"
#include "tests/tensor/scoped_environment.hpp"

namespace nibble {
namespace {

using testing::Draws;
using testing::Parameters;

constexpr MomentPrecision precisions[] = {MomentPrecision::f32, MomentPrecision::bf16, MomentPrecision::eight_bit};

nlohmann::json bitsandbytes() { return testing::recorded("bitsandbytes_8bit.json"); }

/// The moment of a matrix that is large enough for codes.
class OneMoment {
 public:
  OneMoment(MomentKind kind, MomentPrecision precision, int64_t size = 4096, uint64_t seed = 3) {
    info_ = {.name = "matrix", .rows = 1, .cols = std::max(size, least_coded_elements)};
    OptimizedParameter parameter;
    parameter.info = &info_;
    parameter.master = Tensor(DType::f32, nullptr, 1, size);
    parameter.number = 2;
    memory_ = Arena("test", [&](Arena& arena) {
      moment = take_moment(arena, kind, {.precision = precision, .seed = seed}, parameter);
    });
  }
  /// What becomes of the values of its first tiles.
  std::vector<float> rounded(const std::vector<float>& values, int64_t step = 1) const {
    std::vector<float> result(values.size());
    const auto size = static_cast<int64_t>(values.size());
    for (int64_t first = 0; first < size; first += moment.tile()) {
      const int64_t count = std::min(moment.tile(), size - first);
      packing.pack(moment, first, count, step, values.data() + first);
      packing.unpack(moment, first, count, result.data() + first);
    }
    return result;
  }

  const MomentPacking& packing = moment_packing(Stream(1).isa());

  Moment moment;

 private:
  ParameterInfo info_;
  Arena memory_;
};

std::vector<double> map_of(MomentKind kind) {
  return bitsandbytes()[kind == MomentKind::second ? "unsigned_map" : "signed_map"];
}

/// By a search through all of them; of two that are equally near the lower one.
size_t nearest(const std::vector<double>& map, double x) {
  const auto above = static_cast<size_t>(std::lower_bound(map.begin(), map.end(), x) - map.begin());
  if (above == 0) return 0;
  if (above == map.size()) return map.size() - 1;
  return map[above] - x < x - map[above - 1] ? above : above - 1;
}

TEST(Moment, CodesAreThoseOfBitsandbytes) {
  for (const MomentKind kind : {MomentKind::first, MomentKind::second}) {
    const std::vector<double> map = map_of(kind);
    ASSERT_EQ(map.size(), 256u);
    const OneMoment of(kind, MomentPrecision::eight_bit);
    ASSERT_EQ(of.moment.tile(), 256);
    for (int code = 0; code < 256; ++code) of.moment.values.as<uint8_t>()[code] = static_cast<uint8_t>(code);
    of.moment.scales.as<float>()[0] = 1;
    std::vector<float> values(256);
    of.packing.unpack(of.moment, 0, 256, values.data());
    for (size_t code = 0; code < 256; ++code)  // the map's own steps were rounded to float32
      EXPECT_NEAR(values[code], map[code], 3e-7 * std::abs(map[code])) << code;
    of.packing.pack(of.moment, 0, 256, 1, values.data());
    EXPECT_EQ(of.moment.scales.as<float>()[0], 1);
    for (size_t code = 0; code < 256; ++code) EXPECT_EQ(of.moment.values.as<uint8_t>()[code], code);
  }
}

TEST(Moment, CodesAreTheNearest) {
  for (const MomentKind kind : {MomentKind::first, MomentKind::second}) {
    const std::vector<double> map = map_of(kind);
    const OneMoment of(kind, MomentPrecision::eight_bit);
    Draws draw(7);
    int compared = 0;
    for (int block = 0; block < 200; ++block) {
      std::vector<float> values = {1};  // the scale
      while (values.size() < 256) {
        const float x = std::pow(10.0f, -8 * std::abs(2 * draw()));
        values.push_back(kind == MomentKind::first && draw() < 0 ? -x : x);
      }
      of.packing.pack(of.moment, 0, 256, 1, values.data());
      for (size_t i = 0; i < values.size(); ++i) {
        const double x = values[i];
        const size_t expected = nearest(map, x);
        if (nearest(map, x * (1 - 1e-6)) != nearest(map, x * (1 + 1e-6))) continue;  // half-way but for rounding
        if (kind == MomentKind::second && expected == 0) continue;                   // see NothingAboveZeroBecomesZero
        ASSERT_EQ(of.moment.values.as<uint8_t>()[i], expected) << x;
        ++compared;
      }
    }
    EXPECT_GT(compared, 40000);
  }
}

TEST(Moment, ErrorsAreBounded) {
  Draws draw(9);
  for (const auto& [kind, block, bound] : {std::tuple{MomentKind::first, 256, 0.45 / 64},
                                           {MomentKind::momentum, 256, 0.45 / 64},
                                           {MomentKind::second, 256, 0.45 / 128},
                                           {MomentKind::slow, 256, 0.9 / 64},  // to either side
                                           {MomentKind::matrix_momentum, 64, 0.5 / 127}}) {
    const OneMoment of(kind, MomentPrecision::eight_bit, 5000);  // the last block is shorter
    ASSERT_EQ(of.moment.tile(), block);
    std::vector<float> values(5000);
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = (kind == MomentKind::second ? std::abs(draw()) : draw()) * std::pow(10.0f, 6 * draw());
    const std::vector<float> rounded = of.rounded(values);
    double worst = 0;
    for (size_t first = 0; first < values.size(); first += static_cast<size_t>(block)) {
      const size_t end = std::min(first + static_cast<size_t>(block), values.size());
      float largest = 0;
      for (size_t i = first; i < end; ++i) largest = std::max(largest, std::abs(values[i]));
      for (size_t i = first; i < end; ++i)
        worst = std::max(worst, std::abs(rounded[i] - static_cast<double>(values[i])) / largest);
    }
    EXPECT_LE(worst, bound + 2e-7) << static_cast<int>(kind);
    EXPECT_GE(worst, bound * 0.9) << static_cast<int>(kind);
  }
}

TEST(Moment, LinearCodesAreShareOfTheLargest) {
  const OneMoment of(MomentKind::matrix_momentum, MomentPrecision::eight_bit);
  EXPECT_EQ(of.rounded({127, -126.6f, 0.5f, 1.5f, -2.5f, 0.49f, 0}), (std::vector<float>{127, -127, 0, 2, -2, 0, 0}));
  EXPECT_EQ(of.moment.values.as<int8_t>()[1], -127);
}

TEST(Moment, NothingAboveZeroBecomesZero) {
  const OneMoment of(MomentKind::second, MomentPrecision::eight_bit);
  const std::vector<float> rounded = of.rounded({1, 1e-7f, 1e-20f, 1e-45f, 0});
  for (const size_t i : {1, 2, 3}) EXPECT_FLOAT_EQ(rounded[i], 3.25e-7f);
  EXPECT_EQ(rounded[4], 0);
  // Where the scale itself is hardly above zero.
  for (const float value : of.rounded({1e-37f, 1e-42f, 1e-45f})) EXPECT_GT(value, 0);
  EXPECT_EQ(of.rounded({0, 0}), (std::vector<float>{0, 0}));
}

TEST(Moment, ExtremesStayFinite) {
  constexpr float most = std::numeric_limits<float>::max(), endless = std::numeric_limits<float>::infinity();
  for (const MomentKind kind : {MomentKind::first, MomentKind::second, MomentKind::slow, MomentKind::matrix_momentum})
    for (const MomentPrecision precision : {MomentPrecision::bf16, MomentPrecision::eight_bit}) {
      const OneMoment of(kind, precision);
      for (int64_t step = 1; step < 50; ++step)
        for (const float value : of.rounded({most, 1, 0}, step)) ASSERT_TRUE(std::isfinite(value));
    }
  // A second moment may be infinite, where a gradient's square is: then its element no longer moves.
  const OneMoment of(MomentKind::second, MomentPrecision::eight_bit);
  EXPECT_GE(of.rounded({endless, 1})[0], 3e38f);
}

TEST(Moment, WhatBf16HoldsStays) {
  const OneMoment of(MomentKind::first, MomentPrecision::bf16);
  Draws draw(2);
  std::vector<float> values(4000);
  for (float& value : values) value = float(bf16(draw() * std::pow(10.0f, 20 * draw())));
  for (int64_t step = 1; step < 5; ++step) EXPECT_EQ(of.rounded(values, step), values);
}

// Element e of the logical tensor has half e % 8 of block e / 8, of its seed, step and parameter, in its kind's part.
TEST(Moment, RoundingDrawsByElement) {
  for (const MomentKind kind : {MomentKind::first, MomentKind::second}) {
    OneMoment of(kind, MomentPrecision::bf16, 1000, 77);
    of.moment.first = 8192;  // a run of a larger matrix
    std::vector<float> values(1000);
    Draws draw(4);
    for (float& value : values) value = draw();
    const std::vector<float> rounded = of.rounded(values, 12);
    const RandomStream random(77, Purpose::moment_rounding, 12, 2);
    for (size_t i = 0; i < values.size(); ++i) {
      const uint64_t element = 8192 + i;
      const PhiloxBlock block = random.block(static_cast<uint64_t>(kind) << 32 | element / 8);
      const uint32_t half = block[element % 8 / 2] >> (element % 2 * 16) & 0xffffu;
      const uint32_t bits = (std::bit_cast<uint32_t>(values[i]) + half) & 0xffff0000u;
      ASSERT_EQ(rounded[i], std::bit_cast<float>(bits)) << i;
    }
  }
}

// Each share of 2^18 elements that are rounded up lies within five standard deviations: by chance one does not in less
// than one of 200000 runs, and the draws are fixed.
TEST(Moment, Bf16IsUnbiased) {
  const OneMoment of(MomentKind::first, MomentPrecision::bf16);
  constexpr int64_t elements = 4096, rounds = 64;
  for (const double share : {0.01, 0.25, 0.5, 0.9}) {
    const float value = static_cast<float>(1 + share / 128);  // bf16 holds 1 and 1 + 1/128
    int64_t up = 0;
    for (int64_t step = 1; step <= rounds; ++step)
      for (const float rounded : of.rounded(std::vector<float>(elements, value), step)) {
        ASSERT_TRUE(rounded == 1 || rounded == 1 + 1.0f / 128);
        up += rounded > 1;
      }
    const double n = elements * rounds;
    EXPECT_NEAR(static_cast<double>(up) / n, share, 5 * std::sqrt(share * (1 - share) / n)) << share;
  }
}

TEST(Moment, AnotherStepSeedOrKindDrawsOtherNumbers) {
  const std::vector<float> values(4096, 1 + 1.0f / 256);
  const OneMoment of(MomentKind::first, MomentPrecision::bf16);
  const std::vector<float> rounded = of.rounded(values, 1);
  EXPECT_EQ(of.rounded(values, 1), rounded);
  EXPECT_NE(of.rounded(values, 2), rounded);
  EXPECT_NE(OneMoment(MomentKind::second, MomentPrecision::bf16).rounded(values, 1), rounded);
  EXPECT_NE(OneMoment(MomentKind::first, MomentPrecision::bf16, 4096, 4).rounded(values, 1), rounded);
}

// A moment that moves by a part in ten thousand of its way each step. To the nearest code it would stand still.
TEST(Moment, ASlowMomentMovesInCodes) {
  constexpr int steps = 2000;
  constexpr double rate = 1e-4;
  const auto mean_after = [&](MomentKind kind) {
    const OneMoment of(kind, MomentPrecision::eight_bit);
    std::vector<float> values(256, 0.5f);
    for (size_t i = 0; i < 16; ++i) values[i] = i % 2 == 0 ? 1.0f : -1.0f;  // that do not move
    double mean = 0;
    for (int64_t step = 1; step <= steps; ++step) {
      values = of.rounded(values, step);
      mean = 0;
      for (size_t i = 16; i < 256; ++i) {
        values[i] += static_cast<float>(rate * (0.8 - values[i]));
        mean += values[i] / 240;
      }
    }
    for (size_t i = 0; i < 16 && kind == MomentKind::slow; ++i) EXPECT_NEAR(std::abs(values[i]), 1, 1e-3);
    return mean;
  };
  const double exact = 0.8 - 0.3 * std::pow(1 - rate, steps);
  // One rounding has at most half of a code's 0.0142 as standard deviation; 2000 that are forgotten at this rate, of
  // 240 elements.
  const double deviation = 0.0071 * std::sqrt(steps / 240.0);
  EXPECT_NEAR(mean_after(MomentKind::slow), exact, 0.2 * deviation);
  EXPECT_NEAR(mean_after(MomentKind::first), 0.5, 0.01) << "to the nearest";
}

/// AdamW in double whose moments are rounded to the published map between steps.
struct SlowAdamW {
  AdamWSettings settings;
  std::vector<double> first_map = map_of(MomentKind::first), second_map = map_of(MomentKind::second);
  bool zero_allowed = false;  ///< second moments may become zero, as they do in bitsandbytes
  std::vector<double> w{}, m{}, v{};

  void step(const std::vector<float>& gradients, int64_t t, double learning_rate) {
    m.resize(w.size());
    v.resize(w.size());
    for (size_t i = 0; i < w.size(); ++i) {
      const double g = gradients[i], t_ = static_cast<double>(t);
      w[i] *= 1 - learning_rate * settings.weight_decay;
      m[i] = settings.beta1 * m[i] + (1 - settings.beta1) * g;
      v[i] = settings.beta2 * v[i] + (1 - settings.beta2) * g * g;
      w[i] -= learning_rate / (1 - std::pow(settings.beta1, t_)) * m[i] /
              (std::sqrt(v[i]) / std::sqrt(1 - std::pow(settings.beta2, t_)) + settings.epsilon);
    }
    for (size_t first = 0; first < w.size(); first += 256) {
      const size_t end = std::min(first + 256, w.size());
      double largest_m = 0, largest_v = 0;
      for (size_t i = first; i < end; ++i)
        largest_m = std::max(largest_m, std::abs(m[i])), largest_v = std::max(largest_v, v[i]);
      for (size_t i = first; i < end; ++i) {
        m[i] = largest_m * first_map[nearest(first_map, m[i] / largest_m)];
        size_t code = nearest(second_map, v[i] / largest_v);
        if (code == 0 && v[i] > 0 && !zero_allowed) code = 1;
        v[i] = largest_v * second_map[code];
      }
    }
  }
};

/// The gradients of the fixture.
float next_gradient(Draws& draw, int64_t element) {
  constexpr float factors[] = {1, 0.3f, 0.1f, 0.03f};
  const float drawn = draw();
  return std::copysign(0.1f + std::abs(drawn), drawn) * factors[element % 4];
}

// A value half-way between two codes may go either way; all others agree.
TEST(Moment, TenStepsOfAdamWAsBitsandbytesAndAsInDouble) {
  const nlohmann::json expected = bitsandbytes()["adamw"];
  Stream stream(2);
  const Parameters parameters({{expected["rows"], expected["cols"], true}}, DType::f32);
  Draws draw(1);
  constexpr size_t size = 8000;
  for (size_t i = 0; i < size; ++i) parameters.master(0)[i] = draw();
  SlowAdamW slow{.settings = {.weight_decay = 0.1}, .w = {parameters.master(0), parameters.master(0) + size}};
  AdamW optimizer(parameters.list, {.weight_decay = 0.1, .moments = {.precision = MomentPrecision::eight_bit}});
  std::vector<float> gradients(size);
  for (int64_t step = 1; step <= 10; ++step) {
    for (size_t i = 0; i < size; ++i)
      parameters.gradient(0)[i] = gradients[i] = next_gradient(draw, static_cast<int64_t>(i));
    optimizer.step(stream, {.step = step, .learning_rate = 1e-2});
    slow.step(gradients, step, 1e-2);
  }
  int other = 0;
  for (size_t i = 0; i < size; ++i) {
    const double difference = std::abs(parameters.master(0)[i] - slow.w[i]);
    EXPECT_LT(difference, 2e-3) << i;
    other += difference > 2e-6;
  }
  EXPECT_LT(other, 40) << "of 8000";

  StateList list;
  optimizer.state(list);
  ASSERT_EQ(list.entries().size(), 4u);
  const char* keys[] = {"first_codes", "first_scales", "second_codes", "second_scales"};
  other = 0;
  for (size_t entry = 0; entry < 4; ++entry) {
    const Tensor& own = list.entries()[entry].tensor;
    const nlohmann::json& theirs = expected[keys[entry]];
    for (size_t i = 0; i < theirs.size(); ++i)
      if (entry % 2 == 0) other += own.as<uint8_t>()[8 * i] != theirs[i].get<int>();
      else EXPECT_NEAR(own.as<float>()[i], theirs[i].get<double>(), 0.02 * theirs[i].get<double>()) << keys[entry];
  }
  EXPECT_LT(other, 10) << "codes of 2000";
  other = 0;
  for (size_t i = 0; i < expected["weights"].size(); ++i) {
    const double difference = std::abs(parameters.master(0)[8 * i] - expected["weights"][i].get<double>());
    EXPECT_LT(difference, 2e-3) << i;
    other += difference > 2e-6;
  }
  EXPECT_LT(other, 5) << "of 1000";
}

// An element whose gradient was small beside its block's and then stops. Its second moment is too small for the code;
// as zero it would leave a step of |m| / epsilon.
TEST(Moment, AQuietElementDoesNotJump) {
  constexpr double learning_rate = 1e-3;
  Stream stream(1);
  const Parameters parameters({{16, 256, false}}, DType::f32);
  AdamW optimizer(parameters.list, {.moments = {.precision = MomentPrecision::eight_bit}});
  SlowAdamW published{.settings = {.weight_decay = 0}, .zero_allowed = true, .w = std::vector<double>(4096)};
  double worst = 0, worst_published = 0;
  for (int64_t step = 1; step <= 20; ++step) {
    std::vector<float> gradients(4096, 1);
    for (size_t i = 1; i < gradients.size(); i += 2) gradients[i] = step <= 3 ? 1e-4f : 0;
    std::copy(gradients.begin(), gradients.end(), parameters.gradient(0));
    const std::vector<float> before(parameters.master(0), parameters.master(0) + 4096);
    const std::vector<double> before_published = published.w;
    optimizer.step(stream, {.step = step, .learning_rate = learning_rate});
    published.step(gradients, step, learning_rate);
    for (size_t i = 0; i < gradients.size(); ++i) {
      worst = std::max(worst, std::abs(parameters.master(0)[i] - static_cast<double>(before[i])));
      worst_published = std::max(worst_published, std::abs(published.w[i] - before_published[i]));
    }
  }
  EXPECT_LT(worst, 1.5 * learning_rate);
  EXPECT_GT(worst_published, 100 * learning_rate) << "the test would not see it";
}

TEST(Moment, BytesAndNamesOfTheState) {
  const Parameters parameters({{64, 128, true}, {1, 128, false}, {5, 1000, true}}, DType::bf16);
  const auto bytes = [&](auto optimizer) {
    StateList list;
    optimizer.state(list);
    return list.bytes();
  };
  constexpr size_t coded = 64 * 128 + 5 * 1000, small = 128, blocks = 32 + 20;
  EXPECT_EQ(bytes(AdamW(parameters.list, {})), 8 * (coded + small));
  EXPECT_EQ(bytes(AdamW(parameters.list, {.moments = {.precision = MomentPrecision::bf16}})), 4 * (coded + small));
  const MomentSettings codes{.precision = MomentPrecision::eight_bit};
  EXPECT_EQ(bytes(AdamW(parameters.list, {.moments = codes})), 2 * coded + 2 * 4 * blocks + 8 * small);
  EXPECT_EQ(bytes(AdEMAMix(parameters.list, {.moments = codes})), 3 * coded + 3 * 4 * blocks + 12 * small);
  EXPECT_EQ(bytes(Sgd(parameters.list, {.moments = codes})), coded + 4 * blocks + 4 * small);

  AdamW optimizer(parameters.list, {.moments = codes});
  StateList list;
  optimizer.state(list);
  ASSERT_EQ(list.entries().size(), 4u + 2 + 4);
  EXPECT_EQ(list.entries()[0].name, "optimizer/first_moment/parameter0");
  EXPECT_EQ(list.entries()[0].tensor.dtype, DType::u8);
  EXPECT_EQ(list.entries()[0].tensor.rows, 64);
  EXPECT_EQ(list.entries()[1].name, "optimizer/first_moment_scale/parameter0");
  EXPECT_EQ(list.entries()[1].tensor.rows, 32);
  EXPECT_EQ(list.entries()[4].name, "optimizer/first_moment/parameter1");
  EXPECT_EQ(list.entries()[4].tensor.dtype, DType::f32);

  Muon muon({parameters.list[0]}, {.row_beta2 = 0.95, .moments = codes});
  StateList of_muon;
  muon.state(of_muon);
  EXPECT_EQ(of_muon.bytes(), 64 * 128 + 128 * 4 + 4 * 64u) << "128 blocks of 64, and the rows of NorMuon in f32";
  EXPECT_EQ(of_muon.entries()[0].tensor.dtype, DType::i8);
  MarsM mars({parameters.list[0]}, {.moments = codes});
  StateList of_mars;
  mars.state(of_mars);
  EXPECT_EQ(of_mars.bytes(), 64 * 128 + 128 * 4 + 2 * 64 * 128u) << "the last gradient is bf16";
}

TEST(Moment, EmbeddingsKeepF32UnlessTold) {
  const ParameterInfo embedding{.name = "e", .kind = ParameterKind::embedding, .rows = 100, .cols = 100},
      head{.name = "h", .kind = ParameterKind::head, .rows = 100, .cols = 100},
      small{.name = "s", .rows = 1, .cols = 4095};
  const MomentSettings codes{.precision = MomentPrecision::eight_bit},
      everywhere{.precision = MomentPrecision::eight_bit, .embedding_codes = true};
  EXPECT_EQ(moment_precision(codes, embedding), MomentPrecision::f32);
  EXPECT_EQ(moment_precision(everywhere, embedding), MomentPrecision::eight_bit);
  EXPECT_EQ(moment_precision(codes, head), MomentPrecision::eight_bit);
  EXPECT_EQ(moment_precision(everywhere, small), MomentPrecision::f32);
  EXPECT_EQ(moment_precision({.precision = MomentPrecision::bf16}, embedding), MomentPrecision::bf16);
  EXPECT_THROW(moment_precision("4-bit"), Error);
}

/// Masters and the state after three steps, as bytes.
template <class AnyOptimizer, class AnySettings>
std::string bits_after_steps(int threads, const AnySettings& settings) {
  Stream stream(threads);
  const Parameters parameters({{130, 67, true}, {3, 4096, true}, {9, 1000, false}}, DType::bf16);
  Draws draw(3);
  for (const OptimizedParameter& parameter : parameters.list)
    for (int64_t j = 0; j < parameter.master.size(); ++j) parameter.master.as<float>()[j] = draw();
  AnyOptimizer optimizer(parameters.list, settings);
  for (int t = 1; t <= 3; ++t) {
    for (const OptimizedParameter& parameter : parameters.list)
      for (int64_t j = 0; j < parameter.master.size(); ++j) parameter.gradient.as<float>()[j] = draw();
    optimizer.step(stream, {.step = t, .learning_rate = 1e-2});
  }
  StateList list;
  optimizer.state(list);
  for (const OptimizedParameter& parameter : parameters.list)
    list.add("master/" + parameter.info->name, parameter.master);
  std::string bits;
  for (const StateList::Entry& entry : list.entries())
    bits.append(static_cast<const char*>(entry.tensor.data), entry.tensor.bytes());
  return bits;
}

template <class AnyOptimizer, class AnySettings>
void expect_same_bits(AnySettings settings) {
  std::set<std::string> different;
  for (const MomentPrecision precision : precisions) {
    settings.moments = {.precision = precision, .seed = 5};
    const std::string one = bits_after_steps<AnyOptimizer>(1, settings);
    EXPECT_EQ(one, bits_after_steps<AnyOptimizer>(2, settings));
    EXPECT_EQ(one, bits_after_steps<AnyOptimizer>(5, settings));
    const ScopedEnvironment narrow("NIBBLE_ISA", "avx2");
    EXPECT_EQ(one, bits_after_steps<AnyOptimizer>(1, settings));
    different.insert(one);
  }
  EXPECT_EQ(different.size(), 3u);
}

TEST(Moment, SameBitsWithAnyNumberOfThreadsAndEitherInstructionSet) {
  expect_same_bits<AdamW>(AdamWSettings{});
  expect_same_bits<AdEMAMix>(AdEMAMixSettings{});
  expect_same_bits<Sgd>(SgdSettings{});
}

}  // namespace
}  // namespace nibble
