#include "trainer/scaling_law.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "tensor/error.hpp"
#include "trainer/nearest.hpp"

namespace nibble {
namespace {

/// ln(e^x + e^y).
double log_sum(double x, double y) {
  const double larger = std::max(x, y);
  return std::isinf(larger) ? larger : larger + std::log1p(std::exp(std::min(x, y) - larger));
}

// Efficiencies and excesses ------------------------------------------------------------------------------------------

/// sum over weights and inputs of ln(1 - e^(-P / gamma)). With u = P / gamma: d/du = 1 / (e^u - 1), du/dln gamma = -u.
double log_efficiency_of_bits(const LawPoint& point, std::span<const double> own, std::span<double> derivatives) {
  double sum = 0;
  for (size_t i = 0; i < 2; ++i) {
    const double u = point.bits[i] / std::exp(own[i]);
    sum += std::log(-std::expm1(-u));
    derivatives[i] = -u / std::expm1(u);
  }
  return sum;
}

/// sum over quantized operands of ln rho = ln L_sat + C ln tanh(F c), c = log_{1/4} GMSE.
double log_capacity(const LawPoint& point, std::span<const double> own, std::span<double> derivatives) {
  const double factor = std::exp(own[1]), power = std::exp(own[2]);
  double sum = 0;
  std::ranges::fill(derivatives, 0);
  for (const double c : point.log_quarter_error) {
    if (c == 0) continue;
    const double t = std::tanh(factor * c), log_t = std::log(t);
    sum += own[0] + power * log_t;
    derivatives[0] += 1;
    derivatives[1] += power * factor * c * (1 - t * t) / t;
    derivatives[2] += power * log_t;
  }
  return sum;
}

/// ln X of X = D^beta / N^alpha log2(B) / (gamma (E + 1/2)^delta (M + 1/2)^nu).
double log_excess_of_rounding(const LawPoint& point, std::span<const double> values, std::span<double> derivatives) {
  const double log_exponent = std::log(point.exponent_bits + 0.5), log_mantissa = std::log(point.mantissa_bits + 0.5);
  const double delta = std::exp(values[common_constants + 1]), nu = std::exp(values[common_constants + 2]);
  std::ranges::fill(derivatives, 0);
  const double alpha = std::exp(values[law_alpha]), beta = std::exp(values[law_beta]);
  derivatives[law_alpha] = -alpha * point.log_parameters;
  derivatives[law_beta] = beta * point.log_tokens;
  derivatives[common_constants] = -1;
  derivatives[common_constants + 1] = -delta * log_exponent;
  derivatives[common_constants + 2] = -nu * log_mantissa;
  return beta * point.log_tokens - alpha * point.log_parameters + std::log(point.log_block) - values[common_constants] -
         delta * log_exponent - nu * log_mantissa;
}

// The rows -----------------------------------------------------------------------------------------------------------

std::vector<LawConstant> with(std::vector<LawConstant> common, std::initializer_list<LawConstant> own) {
  common.insert(common.end(), own);
  return common;
}

std::vector<ScalingLaw> make_laws() {
  const std::vector<LawConstant> common = {
      {"A", 0, 0}, {"alpha", 0.05, 1}, {"B", 0, 0}, {"beta", 0.05, 1}, {"E", 0, 0}};
  const std::vector<LawConstant> capybara = {
      {"n", 0, 0}, {"alpha", 0.05, 1}, {"d", 0, 0}, {"beta", 0.05, 1}, {"epsilon", 0, 0}};
  return {
      {.name = "chinchilla",
       .formula = "L = E + A / N^alpha + B / D^beta",
       .source = "Hoffmann et al., arXiv 2203.15556, approach 3",
       .huber = 1e-3,
       .constants = common},
      {.name = "quartet",
       .formula = "L = (A / (N eff_N)^alpha + B / (D eff_D)^beta)^gamma + E",
       .source = "Quartet, arXiv 2505.14669, after Busbridge et al., arXiv 2502.08606",
       .huber = 1e-4,
       .efficiency = FreeEfficiency::of_parameters_and_data,
       .constants = with(common, {{"gamma", 0.15, 1}}),
       .has_gamma = true},
      {.name = "quest",
       .formula = "L = A / (N eff)^alpha + B / D^beta + E",
       .source = "QuEST, arXiv 2502.05003",
       .huber = 1e-3,
       .efficiency = FreeEfficiency::of_parameters,
       .constants = common},
      {.name = "precision",
       .formula = "L = A / (N (1 - e^(-P_w / gamma_w)) (1 - e^(-P_a / gamma_a)))^alpha + B / D^beta + E",
       .source = "Kumar et al., arXiv 2411.04330; P_w, P_a: bits of weights and inputs",
       .huber = 1e-3,
       .constants = with(common, {{"gamma_w", 0.5, 8}, {"gamma_a", 0.5, 8}}),
       .log_efficiency = log_efficiency_of_bits},
      {.name = "fp-quantization",
       .formula = "L = n / N^alpha + d / D^beta + epsilon"
                  " + D^beta / N^alpha log2(B) / (gamma (E + 0.5)^delta (M + 0.5)^nu)",
       .source = "Capybara, arXiv 2501.02423; E, M: exponent and mantissa bits of the weights, B: block size",
       .huber = 1e-3,
       .constants = with(capybara, {{"gamma", 1e2, 1e6}, {"delta", 0.5, 5}, {"nu", 0.5, 5}}),
       .log_excess = log_excess_of_rounding},
      {.name = "capacity",
       .formula = "L = A / (N rho_w rho_a)^alpha + B / D^beta + E,"
                  " rho = L_sat tanh(F log_{1/4} GMSE)^C, 1 where nothing is quantized",
       .source = "arXiv 2506.01863; GMSE: relative squared error on normal values",
       .huber = 1e-3,
       .constants = with(common, {{"L_sat", 0.5, 1.2}, {"F", 0.1, 1}, {"C", 0.3, 4}}),
       .log_efficiency = log_capacity},
  };
}

}  // namespace

const std::vector<ScalingLaw>& scaling_laws() {
  static const std::vector<ScalingLaw> laws = make_laws();
  return laws;
}

const ScalingLaw& find_law(const std::string& name) {
  std::vector<std::string> names;
  for (const ScalingLaw& law : scaling_laws()) {
    if (law.name == name) return law;
    names.emplace_back(law.name);
  }
  const std::string near = nearest(name, names);
  throw Error({.kind = ErrorKind::configuration,
               .what = "unknown scaling law",
               .where = "--law",
               .seen = name,
               .allowed = fmt::format("{}", fmt::join(names, ", ")),
               .next = near.empty() ? "" : fmt::format("did you mean '{}'?", near)});
}

double law_log_loss(const ScalingLaw& law, const LawPoint& point, std::span<const double> values,
                    std::span<double> gradient) {
  const size_t constants = law.constants.size();
  std::array<double, 8> derivatives{};  // of the efficiency, then of the excess: as many as a law has constants
  double log_n = point.log_parameters, log_d = point.log_tokens;
  if (point.parameter_efficiency) log_n += values[*point.parameter_efficiency];
  if (point.data_efficiency) log_d += values[*point.data_efficiency];
  const std::span<double> own = std::span(derivatives).first(law.own_constants());
  const size_t first_own = constants - own.size();
  if (law.log_efficiency) log_n += law.log_efficiency(point, values.subspan(first_own, own.size()), own);

  const double alpha = std::exp(values[law_alpha]), beta = std::exp(values[law_beta]);
  const double gamma = law.has_gamma ? std::exp(values[common_constants]) : 1;
  const double of_n = values[law_a] - alpha * log_n, of_d = values[law_b] - beta * log_d;
  const double log_inner = log_sum(of_n, of_d);
  const double log_smooth = log_sum(gamma * log_inner, values[law_e]);

  const auto fill_gradient = [&](double share_of_smooth, double log_total) {
    const double reducible = share_of_smooth * std::exp(gamma * log_inner - log_smooth);
    const double n_share = reducible * gamma * std::exp(of_n - log_inner);
    const double d_share = reducible * gamma * std::exp(of_d - log_inner);
    std::ranges::fill(gradient, 0);
    gradient[law_a] = n_share;
    gradient[law_alpha] = -n_share * alpha * log_n;
    gradient[law_b] = d_share;
    gradient[law_beta] = -d_share * beta * log_d;
    gradient[law_e] = std::exp(values[law_e] - log_total);
    if (law.has_gamma) gradient[common_constants] = reducible * gamma * log_inner;
    if (law.log_efficiency)
      for (size_t i = 0; i < own.size(); ++i) gradient[first_own + i] = -n_share * alpha * own[i];
    if (point.parameter_efficiency) gradient[*point.parameter_efficiency] = -n_share * alpha;
    if (point.data_efficiency) gradient[*point.data_efficiency] = -d_share * beta;
  };
  if (!law.log_excess || !point.rounded) {
    if (!gradient.empty()) fill_gradient(1, log_smooth);
    return log_smooth;
  }
  const std::span<double> by_constant = std::span(derivatives).first(constants);
  const double log_excess = law.log_excess(point, values, by_constant);
  const double log_total = log_sum(log_smooth, log_excess);
  if (!gradient.empty()) {
    fill_gradient(std::exp(log_smooth - log_total), log_total);
    const double share = std::exp(log_excess - log_total);
    for (size_t i = 0; i < constants; ++i) gradient[i] += share * by_constant[i];
  }
  return log_total;
}

std::vector<double> law_start(const ScalingLaw& law, std::span<const LawPoint> points, std::span<const double> uniform,
                              std::span<const std::optional<double>> fixed) {
  constexpr double least_efficiency = 0.02;
  std::vector<double> values(fixed.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const bool constant = i < law.constants.size() && law.constants[i].low > 0;
    const double low = std::log(constant ? law.constants[i].low : least_efficiency);
    const double high = constant ? std::log(law.constants[i].high) : 0;
    values[i] = fixed[i].value_or(low + (high - low) * uniform[i]);
  }
  double log_n = 0, log_d = 0, log_loss = 0, least = points[0].log_loss;
  for (const LawPoint& point : points) {
    log_n += point.log_parameters / static_cast<double>(points.size());
    log_d += point.log_tokens / static_cast<double>(points.size());
    log_loss += point.log_loss / static_cast<double>(points.size());
    least = std::min(least, point.log_loss);
  }
  values[law_e] = fixed[law_e].value_or(least + std::log(0.02 + 0.93 * uniform[law_e]));
  const double above = std::max(std::exp(log_loss) - std::exp(values[law_e]), 1e-3 * std::exp(log_loss));
  const double log_inner = std::log(above) / (law.has_gamma ? std::exp(values[common_constants]) : 1);
  const double share = 0.1 + 0.8 * uniform[law_a];
  values[law_a] = fixed[law_a].value_or(log_inner + std::log(share) + std::exp(values[law_alpha]) * log_n);
  values[law_b] = fixed[law_b].value_or(log_inner + std::log(1 - share) + std::exp(values[law_beta]) * log_d);
  return values;
}

}  // namespace nibble
