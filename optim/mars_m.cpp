#include "optim/mars_m.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <utility>

#include "optim/constants.hpp"
#include "optim/gradient_norm.hpp"

namespace nibble {
namespace {

MarsMSettings valid(const MarsMSettings& settings) {
  const OptimizerConstants check("MARS-M");
  check.memory("muon.momentum", settings.momentum);
  check.not_negative("gamma", settings.gamma);
  check.not_negative("weight_decay", settings.weight_decay);
  return settings;
}

}  // namespace

MarsM::MarsM(std::vector<OptimizedParameter> matrices, const MarsMSettings& settings, const ParameterShares& shares)
    : parameters_(std::move(matrices)),
      settings_(valid(settings)),
      states_(parameters_.size()),
      whole_(parameters_, DType::f32,
             work_of(parameters_,
                     [&](const ParameterInfo& info) { return orthogonalisation_work(settings.newton_schulz, info); }),
             shares),
      newton_schulz_(newton_schulz_of(settings.newton_schulz, parameters_, whole_, shares)) {
  memory_ = Arena(
      "optimizer moments",
      [this](Arena& arena) {
        for (size_t i = 0; i < parameters_.size(); ++i) {
          const auto take = [&](MomentKind kind) {
            return take_whole_moment(arena, kind, settings_.moments, parameters_[i], whole_.owns(i));
          };
          states_[i] = {take(MomentKind::matrix_momentum), take(MomentKind::last_gradient)};
        }
      },
      masters_place(parameters_));
}

void MarsM::step(Stream& stream, const StepContext& context) {
  assert(std::isfinite(context.learning_rate) && std::isfinite(context.gradient_scale));
  const double momentum = settings_.momentum;
  whole_.pass(
      stream,
      {
          .kernel = "newton_schulz",
          .operations = [&](size_t i) { return orthogonalisation_work(settings_.newton_schulz, *parameters_[i].info); },
          .change =
              [&](size_t i, const Tensor& whole, int64_t thread) {
                const Tensor row = whole.packed_as(1, whole.size());
                extrapolate(stream, states_[i].last_gradient, row,
                            {.gradient_scale = static_cast<float>(context.gradient_scale),
                             .difference = static_cast<float>(settings_.gamma * momentum / (1 - momentum)),
                             .step = context.step});
                const double norm = gradient_norm(gradient_square_sums(stream, {&row, 1}));
                momentum_update(stream, row, states_[i].momentum, row,
                                {.gradient_scale = static_cast<float>((1 - momentum) / std::max(norm, 1.0)),
                                 .momentum = static_cast<float>(momentum),
                                 .nesterov = false,
                                 .step = context.step});
                orthogonalise(stream, newton_schulz_, parameters_[i], whole, thread);
              },
          .read =
              [&](size_t i, const Tensor& part) {
                const ParameterInfo& info = *parameters_[i].info;
                descend(stream, parameters_[i], part, muon_scale(settings_.scale, info.rows, info.cols),
                        settings_.weight_decay, context.learning_rate);
              },
      });
}

void MarsM::state(StateList& list) {
  for (const State& state : states_) {
    state.momentum.state(list);
    state.last_gradient.state(list);
  }
}

}  // namespace nibble
