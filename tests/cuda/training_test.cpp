// Steps of training on a device against the host's, and states that go from the one to the other.
#include <cmath>

#include "comm/local_world.hpp"
#include "tensor/cuda/emulation/control.hpp"
#include "tests/trainer/small_run.hpp"
#include "trainer/gradient_exchange.hpp"
#include "trainer/resolve.hpp"
#include "trainer/run_parts.hpp"
#include "trainer/state_on_host.hpp"

namespace nibble {
namespace {

constexpr int64_t steps = 6;

/// What a run trains, on the stream's place.
class Training {
 public:
  Training(Place place, const Settings& settings)
      : settings_(settings),
        stream_(2, place),
        data_(TokenData::open(settings.data.train)),
        loader_(data_, loader_options(settings)),
        parts_(make_run_parts(stream_, *world_, settings_, model_config(settings_, data_.tokenizer().vocabulary), steps,
                              exchange_maker(settings_, {}))) {
    parts_.step->fill_masters(new_weights(stream_, settings_, *parts_.model));
  }

  StepResult step(int64_t number) {
    const int64_t sequences = settings_.batch.tokens / settings_.data.sequence;
    return parts_.step->run(number, loader_.batch(number * sequences, sequences));
  }
  double validation_loss() { return evaluate(*parts_.model, parts_.step->weights(), loader_, 256, *world_, {}).loss(); }

  StateList state() {
    StateList list;
    parts_.step->state(list);
    return list;
  }
  Stream& stream() { return stream_; }
  int64_t sequence() const { return settings_.data.sequence; }
  void masters_changed() { parts_.step->masters_changed(); }

 private:
  Settings settings_;
  std::unique_ptr<World> world_ = make_local_world();
  Stream stream_;
  TokenData data_;
  Loader loader_;
  RunParts parts_;
};

class TrainingOnDevice : public test::SmallRunTest {};

TEST_F(TrainingOnDevice, StepsAreTheHosts) {
  for (const std::string recipe : {"fp32", "bf16"})
    for (const std::string optimizer : {"adamw", "muon"}) {
      // Newton-Schulz in bf16 lifts last bits of the gradients to last bits of bf16.
      const std::string products = recipe == "bf16" ? "bf16" : "f32";
      const Settings run = settings(
          "run", {"precision.recipe=" + recipe, "optimizer.name=" + optimizer, "optimizer.muon.products=" + products});
      Training host(Place::host, run), device(Place::device, run);
      const double tolerance = recipe == "bf16" ? 1e-3 : 1e-5;
      double first = 0, last = 0;
      for (int64_t i = 0; i < steps; ++i) {
        const StepResult here = host.step(i), there = device.step(i);
        EXPECT_NEAR(there.loss, here.loss, tolerance) << recipe << ", " << optimizer << ", step " << i;
        EXPECT_NEAR(there.gradient_norm / here.gradient_norm, 1, 10 * tolerance);
        EXPECT_NEAR(there.max_logit, here.max_logit, 10 * tolerance);
        (i == 0 ? first : last) = there.loss;
      }
      EXPECT_LT(last, first - 0.1);
      EXPECT_NEAR(device.validation_loss(), host.validation_loss(), tolerance);
    }
}

// In the first step of each recipe a block's work is queued by itself.
TEST_F(TrainingOnDevice, GraphsOfBlocksChangeNoBit) {
  const std::vector<std::string> shape = {"model.layers=2", "model.width=128", "model.ffn=128", "batch.micro=4",
                                          "batch.tokens=256"};
  const std::string of_two = "precision.overrides=[{phase: last 50%, recipe: fp8}]";
  for (const auto& [recipe, more] : {std::pair<std::string, std::string>{"bf16", "model.qk_norm=true"},
                                     {"quartet2", "model.recompute=block"},
                                     {"fp8", "model.tied=true"},
                                     {"mxfp4-rht-sr", of_two}}) {
    std::vector<std::string> with = shape;
    with.insert(with.end(), {"precision.recipe=" + recipe, more});
    Training plain(Place::device, settings("run", with));
    with.insert(with.end(), {"run.gpu_graphs=true", "run.device=cuda"});
    Training graphs(Place::device, settings("run", with));
    for (int64_t i = 0; i < steps; ++i) {
      const StepResult expected = plain.step(i), seen = graphs.step(i);
      EXPECT_EQ(seen.loss, expected.loss) << recipe << ", step " << i;
      EXPECT_EQ(seen.gradient_norm, expected.gradient_norm) << recipe << ", step " << i;
      EXPECT_EQ(seen.max_logit, expected.max_logit) << recipe << ", step " << i;
    }
    EXPECT_EQ(graphs.validation_loss(), plain.validation_loss());
    if (!cuda::emulation::linked()) continue;
    const int64_t micro_batches = 256 / (4 * graphs.sequence()), phases = more == of_two ? 2 : 1;
    EXPECT_EQ(cuda::emulation::graphs_queued(graphs.stream().queue()), 2 * 2 * (steps * micro_batches - phases));
    EXPECT_EQ(cuda::emulation::graphs_queued(plain.stream().queue()), 0u);
  }
}

TEST_F(TrainingOnDevice, AStateGoesOnAsTheRunThatLeftIt) {
  const Settings run = settings("run", {"precision.recipe=bf16", "optimizer.moments=8-bit"});
  Training whole(Place::device, run), stopped(Place::device, run), resumed(Place::device, run);
  for (int64_t i = 0; i < steps / 2; ++i) {
    whole.step(i);
    stopped.step(i);
  }
  const StateOnHost left(stopped.state()), taken(resumed.state());
  left.fetch(stopped.stream());
  ASSERT_EQ(left.list().entries().size(), taken.list().entries().size());
  for (size_t i = 0; i < left.list().entries().size(); ++i) {
    const Tensor &from = left.list().entries()[i].tensor, &to = taken.list().entries()[i].tensor;
    ASSERT_EQ(from.place, Place::host);
    std::memcpy(to.data, from.data, from.bytes());
  }
  taken.put(resumed.stream());
  resumed.masters_changed();
  for (int64_t i = steps / 2; i < steps; ++i) {
    const StepResult expected = whole.step(i), seen = resumed.step(i);
    EXPECT_EQ(seen.loss, expected.loss);
    EXPECT_EQ(seen.gradient_norm, expected.gradient_norm);
  }
}

}  // namespace
}  // namespace nibble
