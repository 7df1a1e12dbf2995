#include "optim/sgd.hpp"

#include <fmt/format.h>

#include <cassert>
#include <cmath>
#include <utility>

#include "tensor/error.hpp"

namespace nibble {
namespace {

[[noreturn]] void refuse(const char* key, double seen, const char* allowed) {
  throw Error({.kind = ErrorKind::configuration,
               .what = "a constant of SGD is out of range",
               .where = fmt::format("optimizer.{}", key),
               .seen = fmt::format("{}", seen),
               .allowed = allowed});
}

}  // namespace

Sgd::Sgd(std::vector<OptimizedParameter> parameters, const SgdSettings& settings)
    : parameters_(std::move(parameters)), settings_(settings), blocks_(master_blocks(parameters_)) {
  // Written so that NaN is refused too.
  if (!(settings.momentum >= 0 && settings.momentum < 1)) refuse("momentum", settings.momentum, "0 <= momentum < 1");
  if (!(settings.weight_decay >= 0 && std::isfinite(settings.weight_decay)))
    refuse("weight_decay", settings.weight_decay, "0 or a positive number");
  if (settings.momentum == 0) return;
  memory_ = Arena("optimizer moments", [this](Arena& arena) {
    momenta_.clear();
    for (const OptimizedParameter& parameter : parameters_) {
      const Tensor& like = parameter.master;
      momenta_.emplace_back(DType::f32, arena.take(DType::f32, 1, like.size()).data, like.rows, like.cols);
    }
  });
}

void Sgd::step(Stream& stream, const StepContext& context) {
  assert(std::isfinite(context.learning_rate) && std::isfinite(context.gradient_scale));
  sgd_update(stream, parameters_, momenta_, blocks_,
             {.gradient_scale = static_cast<float>(context.gradient_scale),
              .decay = static_cast<float>(1 - context.learning_rate * settings_.weight_decay),
              .momentum = static_cast<float>(settings_.momentum),
              .learning_rate = static_cast<float>(context.learning_rate)});
}

void Sgd::state(StateList& list) {
  for (size_t i = 0; i < momenta_.size(); ++i) add_state(list, "optimizer/momentum", parameters_[i], momenta_[i]);
}

}  // namespace nibble
