#include "optim/sgd.hpp"

#include <cassert>
#include <cmath>
#include <utility>

#include "optim/constants.hpp"

namespace nibble {

Sgd::Sgd(std::vector<OptimizedParameter> parameters, const SgdSettings& settings)
    : parameters_(std::move(parameters)), settings_(settings), blocks_(master_blocks(parameters_)) {
  const OptimizerConstants check("SGD");
  check.memory("momentum", settings.momentum);
  check.not_negative("weight_decay", settings.weight_decay);
  if (settings.momentum > 0)
    memory_ = MomentMemory(settings_.moments, masters_place(parameters_), [this](auto& arena) {
      momenta_.clear();
      for (const OptimizedParameter& parameter : parameters_)
        momenta_.push_back(take_moment(arena, MomentKind::momentum, settings_.moments, parameter));
    });
  std::vector<std::vector<Moment>> by_parameter;
  for (const Moment& momentum : momenta_) by_parameter.push_back({momentum});
  offloaded_ = offloaded_state(parameters_, by_parameter, settings_.moments.portion);
}

void Sgd::step(Stream& stream, const StepContext& context) {
  assert(std::isfinite(context.learning_rate) && std::isfinite(context.gradient_scale));
  const SgdFactors factors{.gradient_scale = static_cast<float>(context.gradient_scale),
                           .decay = static_cast<float>(1 - context.learning_rate * settings_.weight_decay),
                           .momentum = static_cast<float>(settings_.momentum),
                           .learning_rate = static_cast<float>(context.learning_rate),
                           .step = context.step};
  if (!offloaded_) return sgd_update(stream, parameters_, momenta_, blocks_, factors);
  offloaded_->pass(stream, [&](std::span<const OffloadedState::Piece> pieces) {
    const std::vector<OptimizedParameter> parts = parameters_of(pieces);
    std::vector<Moment> momenta;
    for (const OffloadedState::Piece& piece : pieces)
      momenta.insert(momenta.end(), piece.moments.begin(), piece.moments.end());
    sgd_update(stream, parts, momenta, master_blocks(parts), factors);
  });
}

void Sgd::state(StateList& list) {
  for (const Moment& momentum : momenta_) momentum.state(list);
}

}  // namespace nibble
