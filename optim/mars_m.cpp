#include "optim/mars_m.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <utility>

#include "optim/constants.hpp"
#include "optim/gradient_norm.hpp"

namespace nibble {

using Piece = OffloadedState::Piece;

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
  memory_ = MomentMemory(settings_.moments, masters_place(parameters_), [this](auto& arena) {
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const auto take = [&](MomentKind kind) {
        return take_whole_moment(arena, kind, settings_.moments, parameters_[i], whole_.owns(i));
      };
      states_[i] = {take(MomentKind::matrix_momentum), take(MomentKind::last_gradient)};
    }
  });
  const std::vector<size_t> order = whole_.order();
  std::vector<Moment> momenta, last_gradients;
  for (const State& state : states_) {
    momenta.push_back(state.momentum);
    last_gradients.push_back(state.last_gradient);
  }
  const Place place = masters_place(parameters_);
  offloaded_momenta_ = offloaded_moments(place, momenta, settings_.moments.portion, order);
  offloaded_gradients_ = offloaded_moments(place, last_gradients, settings_.moments.portion, order);
  offloaded_masters_ = offloaded_state(parameters_, {}, settings_.moments.portion, order);
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
                const auto part = [&](const Piece& piece) { return row.run(piece.first, piece.size()); };
                const ExtrapolationFactors extrapolation{
                    .gradient_scale = static_cast<float>(context.gradient_scale),
                    .difference = static_cast<float>(settings_.gamma * momentum / (1 - momentum)),
                    .step = context.step};
                for_each_piece(
                    offloaded_gradients_, stream, i, {.moments = {states_[i].last_gradient}},
                    [&](const Piece& piece) { extrapolate(stream, piece.moments[0], part(piece), extrapolation); });
                const double norm = gradient_norm(gradient_square_sums(stream, {&row, 1}));
                const MomentumFactors factors{
                    .gradient_scale = static_cast<float>((1 - momentum) / std::max(norm, 1.0)),
                    .momentum = static_cast<float>(momentum),
                    .nesterov = false,
                    .step = context.step};
                for_each_piece(offloaded_momenta_, stream, i, {.moments = {states_[i].momentum}},
                               [&](const Piece& piece) {
                                 momentum_update(stream, part(piece), piece.moments[0], part(piece), factors);
                               });
                orthogonalise(stream, newton_schulz_, parameters_[i], whole, thread);
              },
          .read =
              [&](size_t i, const Tensor& part) {
                const ParameterInfo& info = *parameters_[i].info;
                for_each_piece(offloaded_masters_, stream, i, {.parameter = parameters_[i]}, [&](const Piece& piece) {
                  descend(stream, piece.parameter, part.run(piece.first, piece.size()),
                          muon_scale(settings_.scale, info.rows, info.cols), settings_.weight_decay,
                          context.learning_rate);
                });
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
