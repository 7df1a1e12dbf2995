// Linear operators whose input is made for them, and whole models of them, have the bits of those whose input was
// there.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "model/llama.hpp"
#include "model/made_inputs.hpp"
#include "tensor/cuda/emulation/control.hpp"
#include "tensor/fill.hpp"
#include "tensor/profile.hpp"
#include "tests/cuda/on_device.hpp"

namespace nibble {
namespace {

using testing::drawn, testing::on_device, testing::on_host, testing::same_bits;

constexpr float epsilon = 1e-5f;

/// Sees nothing; but for its sake inputs are made before they are quantized.
class Bystander final : public OperandObserver {
 public:
  void observe(const OperandPlace&, const OperandError&, const QuantizationCounts&) override {}
};

std::vector<Recipe> all_recipes() {
  std::vector<Recipe> all = recipes();
  for (const char* name : {"quest-w4a4", "quest-w1a1-plain", "quest-w4a16", "lsq-w4a4", "pact-w3a4", "ste-w3a3"})
    all.push_back(find_recipe(name));
  all.push_back(combine(find_recipe("nvfp4-4over6-sr"), find_recipe("mxfp8")));
  Recipe stochastic = find_recipe("mxfp4-rtn");  // rounds what is made at random, which no kernel does at once
  stochastic.name = "stochastic-forward";
  stochastic.forward.input.rounding = Rounding::stochastic;
  all.push_back(stochastic);
  return all;
}

/// What a kernel's name in a profile begins with, and how often it was called.
int64_t calls(const Profile& profile, const std::string& kernel) {
  const auto found = profile.totals().find(kernel);
  return found == profile.totals().end() ? 0 : found->second.calls;
}

class MadeOperand : public ::testing::TestWithParam<Recipe> {
 protected:
  static constexpr int64_t tokens = 128, in = 256, out = 128;

  /// Everything that a forward and a backward pass leave, on the host.
  struct Results {
    std::vector<OwnedTensor> tensors;
    bool operator==(const Results& other) const {
      return std::ranges::equal(tensors, other.tensors,
                                [](const Tensor& a, const Tensor& b) { return same_bits(a, b); });
    }
  };
  struct How {
    bool made = false, returns = false, input_stays = false;
    Pass pass = Pass::training;
    OperandObserver* observer = nullptr;
  };

  Results run(const Recipe& recipe, const How& how) {
    const DType type = recipe.operands;
    const LinearSpec spec{.name = "layers.0.gate_up",
                          .in = in,
                          .out = out,
                          .tokens = tokens,
                          .id = 3,
                          .seed = 11,
                          .input_stays = how.input_stays};
    const std::unique_ptr<Linear> linear = make_linear(recipe, spec);
    const auto fresh = [&](DType of, int64_t rows, int64_t cols) {
      return OwnedTensor(of, rows, cols, "test", Place::device);
    };
    const OwnedTensor x = on_device(stream, drawn(DType::f32, tokens, in, 1)),
                      gain = on_device(stream, drawn(DType::f32, 1, in, 2)),
                      w = on_device(stream, drawn(type, out, in, 3)),
                      dy = on_device(stream, drawn(type, tokens, out, 4)),
                      logarithms = on_device(stream, drawn(DType::f32, 1, 2, 5));
    const OwnedTensor normed = on_device(stream, drawn(type, tokens, in, 6)), r = fresh(DType::f32, 1, tokens),
                      y = fresh(type, tokens, out), dx = fresh(type, tokens, in), dw = fresh(DType::f32, out, in),
                      step_gradients = fresh(DType::f32, 1, 2),
                      scratch = fresh(DType::u8, 1,
                                      static_cast<int64_t>(std::max<size_t>(linear->scratch_bytes(stream, tokens), 1)));
    LinearSaved saved;
    const Arena arena(
        "saved", [&](Arena& from) { linear->take_saved(from, tokens, saved); }, Place::device);
    const LinearCall call{.step = 5,
                          .micro_batch = 2,
                          .pass = how.pass,
                          .observer = how.observer,
                          .steps = logarithms,
                          .step_gradients = step_gradients};
    const bool keeps = how.pass == Pass::training || how.pass == Pass::recomputing;
    LinearSaved* const to = keeps ? &saved : nullptr;
    if (how.made) {
      const Returning input(x, gain, normed, r, how.returns);
      linear->forward(stream, call, input, w, y, {}, to, scratch);
    } else {
      rms_norm_forward(stream, x, gain, epsilon, normed, r);
      linear->forward(stream, call, normed, w, y, {}, to, scratch);
    }
    Results results;
    const auto add = [&](const Tensor& tensor) {
      if (tensor) results.tensors.push_back(on_host(stream, tensor));
    };
    for (const Tensor& tensor : {y.view(), r.view(), logarithms.view(), saved.parts.codes, saved.parts.scales,
                                 saved.parts.mask, saved.row_scale, saved.factor})
      add(tensor);
    if (!keeps) return results;
    if (how.returns) rms_norm_forward(stream, x, gain, epsilon, normed, r);
    if (linear->keeps_input()) add(normed), saved.input = normed;
    linear->backward(stream, call, dy, w, saved, dx, dw, scratch);
    for (const OwnedTensor* const tensor : {&dx, &dw, &step_gradients}) add(*tensor);
    return results;
  }

  /// A norm's, which may return.
  class Returning final : public LinearInput {
   public:
    Returning(const Tensor& x, const Tensor& gain, const Tensor& y, const Tensor& r, bool returns)
        : LinearInput(y, returns), normed_(x, gain, epsilon, y, r) {}
    void make(Stream& to) const override { normed_.make(to); }
    Scalar make_with_largest(Stream& to) const override { return normed_.make_with_largest(to); }
    Operand quantize(Stream& to, bool keeps, const QuantizeArguments& arguments) const override {
      return normed_.quantize(to, keeps, arguments);
    }

   private:
    NormedInput normed_;
  };

  Stream stream{1, Place::device};
};

TEST_P(MadeOperand, HasTheBitsOfOneThatWasThere) {
  const Recipe& recipe = GetParam();
  for (const bool input_stays : {false, true}) {
    const Results expected = run(recipe, {.input_stays = input_stays});
    EXPECT_TRUE(run(recipe, {.made = true, .input_stays = input_stays}) == expected);
    EXPECT_TRUE(run(recipe, {.made = true, .returns = true, .input_stays = input_stays}) == expected);
    EXPECT_TRUE(run(recipe, {.made = true, .input_stays = input_stays, .pass = Pass::recomputing}) == expected);
  }
  EXPECT_TRUE(run(recipe, {.made = true, .pass = Pass::evaluation}) == run(recipe, {.pass = Pass::evaluation}));
  Bystander bystander;
  EXPECT_TRUE(run(recipe, {.made = true, .observer = &bystander}) == run(recipe, {}));
  if (!recipe.learns()) return;
  EXPECT_TRUE(run(recipe, {.made = true, .pass = Pass::calibrating}) == run(recipe, {.pass = Pass::calibrating}));
}

INSTANTIATE_TEST_SUITE_P(Recipes, MadeOperand, ::testing::ValuesIn(all_recipes()), [](const auto& one) {
  std::string name = one.param.name;
  std::ranges::replace_if(
      name, [](char c) { return !std::isalnum(c); }, '_');
  return name;
});

TEST_F(MadeOperand, TheKernelIsTheOneThatTheRecipeLetsRun) {
  struct Case {
    const char *recipe, *kernel;
  };
  constexpr const char *matrix = "rms_norm_forward", *largest = "rms_norm_with_largest", *operand = "rms_norm_quantize";
  for (const auto& [recipe, kernel] :
       {Case{"bf16", matrix}, Case{"mxfp4-rht-sr", matrix}, Case{"halo2-int8", matrix}, Case{"nvfp4-h16", matrix},
        Case{"quest-w4a16", matrix}, Case{"fp8", largest}, Case{"fp8-delayed", largest}, Case{"quartet2", largest},
        Case{"nvfp4-nvidia", largest}, Case{"halo0-int8", largest}, Case{"mxfp8", operand}, Case{"fp8-row", operand},
        Case{"quartet", operand}, Case{"quest-w4a4", operand}, Case{"lsq-w4a4", operand}}) {
    Profile profile;
    stream.attach(&profile);
    run(find_recipe(recipe), {.made = true});
    stream.attach(nullptr);
    for (const char* const one : {matrix, largest, operand})
      EXPECT_EQ(calls(profile, one), one == kernel) << recipe << ": " << one;
    const int64_t statistics = calls(profile, "tensor statistic");
    profile.clear();
    stream.attach(&profile);
    run(find_recipe(recipe), {});
    stream.attach(nullptr);
    EXPECT_EQ(calls(profile, "tensor statistic") - statistics, kernel == largest) << recipe;
  }
}

/// A model's gradients of one micro-batch, in host memory.
class ModelOfMadeOperands : public ::testing::Test {
 protected:
  struct Seen {
    LossSums loss;
    std::vector<OwnedTensor> gradients;
    Profile profile, validation;  ///< of the pass, and of one that nothing is kept of
  };

  /// With graphs, of the last of three passes that are the same.
  static Seen run(const Precision& precision, Recompute recompute, OperandObserver* observer, int64_t step = 0,
                  bool graphs = false) {
    const ModelConfig config{.vocabulary = 64,
                             .width = 128,
                             .layers = 2,
                             .heads = 2,
                             .kv_heads = 1,
                             .head_dim = 64,
                             .ffn = 128,
                             .context = 64};
    Stream stream(1, Place::device);
    Llama model(stream, config, precision,
                {.sequences = 2, .length = 64, .recompute = recompute, .seed = 7, .graphs = graphs});
    const ParameterSet masters(model.layout(), DType::f32, DType::f32, false, "masters", Residency::all, {},
                               Place::device),
        weights = model.make_weights(), gradients = model.make_gradients();
    initialize(stream, config, model.layout(), 1, 0.05, masters);
    copy_parameters(stream, masters, weights);
    std::vector<int32_t> inputs, targets;
    for (int32_t i = 0; i < 128; ++i) {
      inputs.push_back(i * 29 % 61);
      targets.push_back((i + 1) * 29 % 61);
    }
    Seen seen;
    if (!graphs) stream.attach(&seen.profile);  // or blocks would be none
    const BackwardOptions options{
        .call = {.step = step, .micro_batch = 1, .pass = Pass::training, .observer = observer},
        .loss_scale = 1.0f / 128};
    for (int pass = 0; pass < (graphs ? 3 : 1); ++pass)
      seen.loss = model.loss_and_gradients(weights, {inputs, targets, {}}, options, gradients);
    if (!graphs) {
      stream.attach(&seen.validation);
      model.loss(weights, {inputs, targets, {}}, step);
    }
    stream.attach(nullptr);
    if (graphs && cuda::emulation::linked()) {
      EXPECT_EQ(cuda::emulation::graphs_queued(stream.queue()), 2 * 2 * static_cast<uint64_t>(config.layers));
    }
    for (size_t i = 0; i < model.layout().buffers().size(); ++i)
      seen.gradients.push_back(on_host(stream, gradients.buffer(static_cast<int>(i))));
    return seen;
  }

  static void expect_same(const Seen& a, const Seen& b, const std::string& label) {
    EXPECT_EQ(a.loss.cross_entropy, b.loss.cross_entropy) << label;
    for (size_t i = 0; i < a.gradients.size(); ++i)
      EXPECT_TRUE(same_bits(a.gradients[i], b.gradients[i])) << label << ", buffer " << i;
  }
};

TEST_F(ModelOfMadeOperands, TrainsAsOneWhoseInputsAreMadeFirst) {
  for (const char* const name : {"fp8-delayed", "mxfp8", "quartet2", "quartet-exact", "quest-w4a4", "pact-w3a4"}) {
    const Precision precision(find_recipe(name));
    Bystander bystander;
    const Seen first = run(precision, Recompute::none, &bystander), made = run(precision, Recompute::none, nullptr),
               again = run(precision, Recompute::block, nullptr);
    expect_same(made, first, name);
    expect_same(again, first, std::string(name) + ", computed again");
    for (const char* const kernel : {"rms_norm_quantize", "rms_norm_with_largest"})
      EXPECT_EQ(calls(first.profile, kernel), 0) << name;
  }
}

TEST_F(ModelOfMadeOperands, TrainsTheSameInGraphs) {
  for (const char* const name : {"fp8", "mxfp8"})
    for (const Recompute recompute : {Recompute::none, Recompute::block}) {
      const Precision precision(find_recipe(name));
      expect_same(run(precision, recompute, nullptr, 0, true), run(precision, recompute, nullptr), name);
    }
}

TEST_F(ModelOfMadeOperands, MakesEachInputOnce) {
  const auto expect = [&](const char* name, Recompute recompute, const std::string& suffix, int64_t norms,
                          int64_t gates) {
    const Seen seen = run(Precision(find_recipe(name)), recompute, nullptr);
    EXPECT_EQ(calls(seen.profile, "rms_norm" + suffix), norms) << name;
    EXPECT_EQ(calls(seen.profile, "swiglu" + suffix), gates) << name;
    // Backward passes of operators that keep an input make it again, but for the last block's.
    EXPECT_EQ(calls(seen.profile, "swiglu_forward"), 1) << name;
    EXPECT_EQ(calls(seen.profile, "rms_norm_forward"), 1) << name;  // the final one
  };
  expect("mxfp8", Recompute::none, "_quantize", 2 * 2, 2);
  expect("fp8", Recompute::none, "_with_largest", 2 * 2, 2);
  expect("mxfp8", Recompute::block, "_quantize", 2 * (2 + 1), 2);
  expect("quest-w4a4", Recompute::block, "_quantize", 2 * (2 + 1), 2);
}

TEST_F(ModelOfMadeOperands, KeepsWhatNobodyMakesAgain) {
  const Seen seen = run(Precision(find_recipe("mxfp8")), Recompute::none, nullptr);
  const auto kept = [&](const char* kernel) {
    return seen.profile.totals().at(kernel).bytes - seen.validation.totals().at(kernel).bytes;
  };
  constexpr double matrix = 2 * 128 * 128;
  EXPECT_EQ(kept("swiglu_quantize"), matrix);            // the last block's
  EXPECT_EQ(kept("rms_norm_quantize"), 2 * 2 * matrix);  // from which codes for dw are made
  const Seen codes = run(Precision(find_recipe("quest-w4a4")), Recompute::none, nullptr);
  EXPECT_LT(
      codes.profile.totals().at("rms_norm_quantize").bytes - codes.validation.totals().at("rms_norm_quantize").bytes,
      2 * 2 * matrix);  // codes, which y's product multiplies, too
}

TEST_F(ModelOfMadeOperands, MayChangeItsRecipeOnTheWay) {
  const Recipe bf16 = find_recipe("bf16"), mxfp8 = find_recipe("mxfp8");
  const Precision changing(bf16, {{.first_layer = 1, .first_step = 3, .recipe = mxfp8}}),
      down(mxfp8, {{.of = {Projection::down, Projection::qkv}, .recipe = bf16}});
  Bystander bystander;
  for (const int64_t step : {2, 3})
    for (const Recompute recompute : {Recompute::none, Recompute::block})
      expect_same(run(changing, recompute, nullptr, step), run(changing, Recompute::none, &bystander, step),
                  std::to_string(step));
  for (const Recompute recompute : {Recompute::none, Recompute::block})
    expect_same(run(down, recompute, nullptr), run(down, Recompute::none, &bystander), "down");
}

}  // namespace
}  // namespace nibble
