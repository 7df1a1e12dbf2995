#include "optim/ademamix.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <utility>

#include "optim/adamw.hpp"
#include "optim/constants.hpp"

namespace nibble {
namespace {

void validate(const AdEMAMixSettings& settings) {
  const OptimizerConstants check("AdEMAMix", "usual values: beta1 0.9, beta2 0.999, beta3 0.9999, alpha 8");
  check.memory("beta1", settings.beta1);
  check.memory("beta2", settings.beta2);
  check.memory("ademamix.beta3", settings.beta3);
  check.not_negative("ademamix.alpha", settings.alpha);
  check.positive("epsilon", settings.epsilon);
  check.not_negative("weight_decay", settings.weight_decay);
}

double warmed_up(const AdEMAMixSettings& settings, int64_t step) {
  return settings.warmup > 0 ? std::min(1.0, static_cast<double>(step) / static_cast<double>(settings.warmup)) : 1;
}

}  // namespace

double ademamix_alpha(const AdEMAMixSettings& settings, int64_t step) {
  return settings.alpha * warmed_up(settings, step);
}

double ademamix_beta3(const AdEMAMixSettings& settings, int64_t step) {
  const double part = warmed_up(settings, step);
  if (part == 1) return settings.beta3;
  // Steps after which a memory has lost half, less one; with the 1e-8 of the authors' code, which bounds that of 0.
  const auto half_life = [](double beta) { return std::log(0.5) / std::log(beta + 1e-8) - 1; };
  return std::pow(0.5, 1 / (1 + (1 - part) * half_life(settings.beta1) + part * half_life(settings.beta3)));
}

AdEMAMix::AdEMAMix(std::vector<OptimizedParameter> parameters, const AdEMAMixSettings& settings)
    : parameters_(std::move(parameters)), settings_(settings), blocks_(master_blocks(parameters_)) {
  validate(settings_);
  memory_ = MomentMemory(settings_.moments, masters_place(parameters_), [this](auto& arena) {
    moments_.clear();
    for (const OptimizedParameter& parameter : parameters_)
      moments_.push_back({take_moment(arena, MomentKind::first, settings_.moments, parameter),
                          take_moment(arena, MomentKind::slow, settings_.moments, parameter),
                          take_moment(arena, MomentKind::second, settings_.moments, parameter)});
  });
  std::vector<std::vector<Moment>> by_parameter;
  for (const auto& [first, slow, second] : moments_) by_parameter.push_back({first, slow, second});
  offloaded_ = offloaded_state(parameters_, by_parameter, settings_.moments.portion);
}

void AdEMAMix::step(Stream& stream, const StepContext& context) {
  assert(context.step >= 1 && std::isfinite(context.learning_rate) && std::isfinite(context.gradient_scale));
  const AdEMAMixFactors factors{
      .adamw = adamw_factors({.beta1 = settings_.beta1,
                              .beta2 = settings_.beta2,
                              .epsilon = settings_.epsilon,
                              .weight_decay = settings_.weight_decay},
                             context),
      .one_minus_beta3 = static_cast<float>(1 - ademamix_beta3(settings_, context.step)),
      .slow_size = static_cast<float>(context.learning_rate * ademamix_alpha(settings_, context.step))};
  if (!offloaded_) return ademamix_update(stream, parameters_, moments_, blocks_, factors);
  offloaded_->pass(stream, [&](std::span<const OffloadedState::Piece> pieces) {
    const std::vector<OptimizedParameter> parts = parameters_of(pieces);
    std::vector<MixedMoments> moments;
    for (const OffloadedState::Piece& piece : pieces)
      moments.push_back({piece.moments[0], piece.moments[1], piece.moments[2]});
    ademamix_update(stream, parts, moments, master_blocks(parts), factors);
  });
}

void AdEMAMix::state(StateList& list) {
  for (const MixedMoments& moments : moments_) {
    moments.first.state(list);
    moments.slow.state(list);
    moments.second.state(list);
  }
}

}  // namespace nibble
