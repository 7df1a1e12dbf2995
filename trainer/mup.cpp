#include "trainer/mup.hpp"

#include <cmath>

#include "trainer/make_optimizer.hpp"

namespace nibble {

UpdateRule update_rule(const std::string& optimizer, const std::string& scale) {
  if (optimizer == "sgd") return UpdateRule::proportional;
  if (orthogonalizes(optimizer)) return scale == "moonlight" ? UpdateRule::moonlight : UpdateRule::orthogonal;
  return UpdateRule::adaptive;
}

double Mup::deviation(ParameterKind kind) const {
  switch (kind) {
    case ParameterKind::projection:
      return 1 / std::sqrt(ratio);
    case ParameterKind::head:
      return 1 / ratio;
    case ParameterKind::embedding:
    case ParameterKind::norm:
    case ParameterKind::step:
      return 1;
  }
  return 1;
}

double Mup::learning_rate(ParameterKind kind, UpdateRule rule) const {
  switch (kind) {
    case ParameterKind::projection:
      return rule == UpdateRule::adaptive ? 1 / ratio : rule == UpdateRule::moonlight ? 1 / std::sqrt(ratio) : 1;
    case ParameterKind::head:
      return 1 / ratio;
    case ParameterKind::embedding:
    case ParameterKind::norm:
      return rule == UpdateRule::proportional ? ratio : 1;
    case ParameterKind::step:
      return 1;
  }
  return 1;
}

Mup mup_of(const Settings& settings, const ModelConfig& config) {
  const int64_t base = settings.model.mup_base_width;
  return {.ratio = base > 0 ? static_cast<double>(config.width) / static_cast<double>(base) : 1};
}

}  // namespace nibble
