#include "optim/adamw.hpp"

#include <cassert>
#include <cmath>
#include <utility>

#include "optim/constants.hpp"

namespace nibble {
namespace {

void validate(const AdamWSettings& settings) {
  const OptimizerConstants check("AdamW", "usual values: beta1 0.9, beta2 0.95, epsilon 1e-8, weight_decay 0.1");
  check.memory("beta1", settings.beta1);
  check.memory("beta2", settings.beta2);
  check.positive("epsilon", settings.epsilon);
  check.not_negative("weight_decay", settings.weight_decay);
}

}  // namespace

AdamW::AdamW(std::vector<OptimizedParameter> parameters, const AdamWSettings& settings)
    : parameters_(std::move(parameters)), settings_(settings), blocks_(master_blocks(parameters_)) {
  validate(settings_);
  memory_ = MomentMemory(settings_.moments, masters_place(parameters_), [this](auto& arena) {
    moments_.clear();
    for (const OptimizedParameter& parameter : parameters_)
      moments_.push_back({take_moment(arena, MomentKind::first, settings_.moments, parameter),
                          take_moment(arena, MomentKind::second, settings_.moments, parameter)});
  });
  std::vector<std::vector<Moment>> by_parameter;
  for (const auto& [first, second] : moments_) by_parameter.push_back({first, second});
  offloaded_ = offloaded_state(parameters_, by_parameter, settings_.moments.portion);
}

AdamWFactors adamw_factors(const AdamWSettings& settings, const StepContext& context) {
  const double t = static_cast<double>(context.step);
  const double bias_correction1 = 1 - std::pow(settings.beta1, t), bias_correction2 = 1 - std::pow(settings.beta2, t);
  return {
      .gradient_scale = static_cast<float>(context.gradient_scale),
      .decay = static_cast<float>(1 - context.learning_rate * settings.weight_decay),
      .one_minus_beta1 = static_cast<float>(1 - settings.beta1),
      .beta2 = static_cast<float>(settings.beta2),
      .one_minus_beta2 = static_cast<float>(1 - settings.beta2),
      .step_size = static_cast<float>(context.learning_rate / bias_correction1),
      .sqrt_bias_correction2 = static_cast<float>(std::sqrt(bias_correction2)),
      .epsilon = static_cast<float>(settings.epsilon),
      .step = context.step,
  };
}

void AdamW::step(Stream& stream, const StepContext& context) {
  assert(context.step >= 1 && std::isfinite(context.learning_rate) && std::isfinite(context.gradient_scale));
  const AdamWFactors factors = adamw_factors(settings_, context);
  if (!offloaded_) return adamw_update(stream, parameters_, moments_, blocks_, factors);
  offloaded_->pass(stream, [&](std::span<const OffloadedState::Piece> pieces) {
    const std::vector<OptimizedParameter> parts = parameters_of(pieces);
    std::vector<AdamMoments> moments;
    for (const OffloadedState::Piece& piece : pieces) moments.push_back({piece.moments[0], piece.moments[1]});
    adamw_update(stream, parts, moments, master_blocks(parts), factors);
  });
}

void AdamW::state(StateList& list) {
  for (const AdamMoments& moments : moments_) {
    moments.first.state(list);
    moments.second.state(list);
  }
}

}  // namespace nibble
