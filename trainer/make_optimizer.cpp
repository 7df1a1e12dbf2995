#include "trainer/make_optimizer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "optim/adamw.hpp"
#include "optim/ademamix.hpp"
#include "optim/mars_m.hpp"
#include "optim/muon.hpp"
#include "optim/parameter_groups.hpp"
#include "optim/sgd.hpp"
#include "optim/shampoo.hpp"
#include "optim/soap.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

bool is_two_sided(const std::string& name) { return name == "shampoo" || name == "soap"; }

/// Each parameter's group with all that is said of it: its own number (-1: none names it) and an optimizer.
struct Membership {
  int number = -1;
  OptimizerGroup group{};
};

std::vector<Membership> memberships(const OptimizerSettings& settings, const std::vector<ParameterInfo>& parameters) {
  std::vector<GroupRule> rules;
  for (const OptimizerGroup& group : settings.groups) rules.push_back({group.match, takes_matrices(group.name)});
  std::vector<Membership> found;
  for (const int number : assign_groups(parameters, rules)) {
    const bool projection = parameters[found.size()].kind == ParameterKind::projection;
    Membership& own = found.emplace_back(Membership{.number = number});
    if (number >= 0) own.group = settings.groups[static_cast<size_t>(number)];
    if (own.group.name.empty()) own.group.name = projection || !takes_matrices(settings.name) ? settings.name : "adamw";
  }
  return found;
}

/// Parameters that have one optimizer and one learning rate.
struct Division {
  OptimizerGroup group;             ///< with the weight decay that belongs to its learning rate
  double learning_rate_factor = 1;  ///< what the step's learning rate is multiplied with
  std::vector<int> parameters{};    ///< ascending
};

std::vector<Division> divided(const OptimizerSettings& settings, const std::vector<ParameterInfo>& parameters,
                              const Mup& mup) {
  using Key = std::tuple<int, std::string, double>;  // group, optimizer, muP's factor
  std::map<Key, Division> divisions;
  int parameter = 0;
  for (const auto& [number, group] : memberships(settings, parameters)) {
    const ParameterKind kind = parameters[static_cast<size_t>(parameter)].kind;
    const double factor = mup.learning_rate(kind, update_rule(group.name, settings.muon.scale));
    Division& division = divisions[{number, group.name, factor}];
    division.group = group;
    division.group.weight_decay = group.weight_decay.value_or(settings.weight_decay) / factor;
    division.learning_rate_factor =
        factor * group.learning_rate.value_or(settings.learning_rate) / settings.learning_rate;
    division.parameters.push_back(parameter++);
  }
  std::vector<Division> found;
  for (auto& [key, division] : divisions) found.push_back(std::move(division));
  return found;
}

NewtonSchulzSettings newton_schulz_settings(const OrthogonalSettings& from) {
  return {.table = from.coefficients == "tuned"           ? NewtonSchulzTable::tuned
                   : from.coefficients == "polar-express" ? NewtonSchulzTable::polar_express
                                                          : NewtonSchulzTable::classic,
          .steps = from.steps,
          .operands = from.products == "f32" ? DType::f32 : DType::bf16};
}

MuonSettings muon_settings(const OrthogonalSettings& from, double weight_decay) {
  return {.momentum = from.momentum,
          .nesterov = from.nesterov,
          .scale = from.scale == "original"   ? MuonScale::original
                   : from.scale == "spectral" ? MuonScale::spectral
                                              : MuonScale::moonlight,
          .weight_decay = weight_decay,
          .newton_schulz = newton_schulz_settings(from)};
}

/// What matrices are that come to their owners.
DType type_of_whole(const OptimizerSettings& settings, const std::string& name) {
  return name == "muon" || name == "normuon" ? newton_schulz_settings(settings.muon).operands : DType::f32;
}

Grafting grafting_of(const std::string& name) {
  return name == "sgd" ? Grafting::sgd : name == "none" ? Grafting::none : Grafting::adam;
}

ShampooSettings shampoo_settings(const OptimizerSettings& from, double weight_decay) {
  return {.beta1 = from.beta1,
          .beta2 = from.beta2,
          .graft_epsilon = from.epsilon,
          .epsilon = from.shampoo.epsilon,
          .exponent = from.shampoo.exponent,
          .every = from.shampoo.every,
          .max_side = from.shampoo.max_side,
          .grafting = grafting_of(from.shampoo.grafting),
          .weight_decay = weight_decay};
}

SoapSettings soap_settings(const OptimizerSettings& from, double weight_decay) {
  return {.beta1 = from.beta1,
          .beta2 = from.beta2,
          .factor_beta = from.soap.factor_beta > 0 ? from.soap.factor_beta : from.beta2,
          .epsilon = from.epsilon,
          .every = from.soap.every,
          .max_side = from.soap.max_side,
          .weight_decay = weight_decay};
}

std::unique_ptr<Optimizer> make_one(const OptimizerSettings& settings, const OptimizerGroup& group, int64_t steps,
                                    uint64_t seed, std::vector<OptimizedParameter> parameters,
                                    const ParameterShares& shares) {
  const double weight_decay = group.weight_decay.value_or(settings.weight_decay);
  const MomentSettings moments{.precision = moment_precision(group.moments.empty() ? settings.moments : group.moments),
                               .seed = seed,
                               .embedding_codes = !group.moments.empty(),
                               .offloaded = settings.offload != "none"};
  if (group.name == "sgd")
    return std::make_unique<Sgd>(std::move(parameters), SgdSettings{settings.momentum, weight_decay, moments});
  if (group.name == "ademamix")
    return std::make_unique<AdEMAMix>(std::move(parameters),
                                      AdEMAMixSettings{.beta1 = settings.beta1,
                                                       .beta2 = settings.beta2,
                                                       .beta3 = settings.ademamix.beta3,
                                                       .alpha = settings.ademamix.alpha,
                                                       .warmup = settings.ademamix.warmup.of(steps),
                                                       .epsilon = settings.epsilon,
                                                       .weight_decay = weight_decay,
                                                       .moments = moments});
  if (group.name == "mars-m") {
    const MuonSettings muon = muon_settings(settings.muon, weight_decay);
    return std::make_unique<MarsM>(std::move(parameters),
                                   MarsMSettings{.momentum = muon.momentum,
                                                 .scale = muon.scale,
                                                 .weight_decay = muon.weight_decay,
                                                 .newton_schulz = muon.newton_schulz,
                                                 .moments = moments},
                                   shares);
  }
  if (is_two_sided(group.name) && moments.precision != MomentPrecision::f32)
    throw Error({.kind = ErrorKind::configuration,
                 .what = group.name + " keeps its state in f32 alone",
                 .where = group.moments.empty() ? "optimizer.moments" : "optimizer.groups",
                 .seen = group.moments.empty() ? settings.moments : group.moments,
                 .allowed = "f32",
                 .next = "leave it at f32; a group of adamw may have moments of its own"});
  if (group.name == "shampoo")
    return std::make_unique<Shampoo>(std::move(parameters), shampoo_settings(settings, weight_decay), shares);
  if (group.name == "soap")
    return std::make_unique<Soap>(std::move(parameters), soap_settings(settings, weight_decay), shares);
  if (orthogonalizes(group.name)) {
    MuonSettings muon = muon_settings(settings.muon, weight_decay);
    muon.moments = moments;
    if (group.name == "normuon") muon.row_beta2 = settings.beta2;
    return std::make_unique<Muon>(std::move(parameters), muon, shares);
  }
  return std::make_unique<AdamW>(std::move(parameters), AdamWSettings{.beta1 = settings.beta1,
                                                                      .beta2 = settings.beta2,
                                                                      .epsilon = settings.epsilon,
                                                                      .weight_decay = weight_decay,
                                                                      .moments = moments});
}

}  // namespace

bool orthogonalizes(const std::string& name) { return name == "muon" || name == "normuon" || name == "mars-m"; }
bool takes_matrices(const std::string& name) { return orthogonalizes(name) || is_two_sided(name); }

std::vector<MatrixWork> whole_matrices(const OptimizerSettings& settings,
                                       const std::vector<ParameterInfo>& parameters) {
  const NewtonSchulzSettings newton_schulz = newton_schulz_settings(settings.muon);
  std::vector<MatrixWork> found;
  int parameter = 0;
  for (const Membership& own : memberships(settings, parameters)) {
    const ParameterInfo& info = parameters[static_cast<size_t>(parameter)];
    const std::string& name = own.group.name;
    if (takes_matrices(name))
      found.push_back({.parameter = parameter,
                       .operations = name == "shampoo" ? shampoo_work(shampoo_settings(settings, 0), info)
                                     : name == "soap"  ? soap_work(soap_settings(settings, 0), info)
                                                       : orthogonalisation_work(newton_schulz, info),
                       .type = type_of_whole(settings, name)});
    ++parameter;
  }
  return found;
}

std::vector<UpdateGroup> update_groups(const OptimizerSettings& settings, const std::vector<ParameterInfo>& parameters,
                                       const Mup& mup) {
  std::vector<UpdateGroup> groups;
  std::map<std::string, int> namesakes;
  for (auto& [group, learning_rate_factor, own] : divided(settings, parameters, mup)) {
    std::string name = group.name;
    std::ranges::replace(name, '-', '_');
    if (const int count = ++namesakes[name]; count > 1) name += fmt::format("_{}", count);
    groups.push_back({.name = name,
                      .orthogonalizes = orthogonalizes(group.name),
                      .learning_rate_factor = learning_rate_factor,
                      .parameters = std::move(own)});
  }
  return groups;
}

void rehearse_matrix_products(Stream& stream, const OptimizerSettings& settings,
                              const std::vector<ParameterInfo>& parameters) {
  std::set<std::tuple<int64_t, int64_t, std::string>> done;
  for (size_t i = 0; const Membership& own : memberships(settings, parameters)) {
    const ParameterInfo& info = parameters[i++];
    const std::string& name = own.group.name;
    if (!takes_matrices(name) || !done.emplace(info.rows, info.cols, name).second) continue;
    if (name == "shampoo") {
      rehearse_shampoo(stream, shampoo_settings(settings, 0), info);
    } else if (name == "soap") {
      rehearse_soap(stream, soap_settings(settings, 0), info);
    } else {
      const NewtonSchulz::Shape shape{info.rows, info.cols};
      NewtonSchulz iteration(newton_schulz_settings(settings.muon), {&shape, 1}, {}, 1, stream.place());
      const OwnedTensor zeros(type_of_whole(settings, name), info.rows, info.cols, "matrix updates", stream.place());
      iteration(stream, zeros);
      iteration.orthogonality_error(stream, zeros);
    }
  }
}

namespace {

/// Parameters by the name of their optimizer.
std::map<std::string, std::vector<ParameterInfo>> by_optimizer(const OptimizerSettings& settings,
                                                               const std::vector<ParameterInfo>& parameters) {
  std::map<std::string, std::vector<ParameterInfo>> found;
  auto next = parameters.begin();
  for (const Membership& own : memberships(settings, parameters)) found[own.group.name].push_back(*next++);
  return found;
}

}  // namespace

size_t optimizer_scratch_bytes(const Stream& stream, const OptimizerSettings& settings,
                               const std::vector<ParameterInfo>& parameters) {
  std::vector<NewtonSchulz::Shape> shapes;
  std::vector<ParameterInfo> two_sided;
  for (const auto& [name, own] : by_optimizer(settings, parameters))
    for (const ParameterInfo& matrix : own) {
      if (orthogonalizes(name)) shapes.push_back({matrix.rows, matrix.cols});
      if (is_two_sided(name)) two_sided.push_back(matrix);
    }
  return std::max(NewtonSchulz::gemm_scratch_bytes(stream, newton_schulz_settings(settings.muon), shapes),
                  two_sided_scratch_bytes(stream, two_sided));
}

size_t decomposition_bytes(const Stream& stream, const OptimizerSettings& settings,
                           const std::vector<ParameterInfo>& parameters) {
  std::map<std::string, std::vector<ParameterInfo>> matrices = by_optimizer(settings, parameters);
  return std::max(two_sided_decomposition_bytes(stream, matrices["shampoo"], settings.shampoo.max_side),
                  two_sided_decomposition_bytes(stream, matrices["soap"], settings.soap.max_side));
}

std::unique_ptr<Optimizer> make_optimizer(const OptimizerSettings& settings, int64_t steps, uint64_t seed,
                                          const std::vector<OptimizedParameter>& parameters,
                                          const ParameterShares& shares, const Mup& mup) {
  std::vector<ParameterInfo> infos;
  for (const OptimizedParameter& parameter : parameters) infos.push_back(*parameter.info);
  std::vector<GroupedOptimizer::Group> groups;
  for (const auto& [group, learning_rate_factor, numbers] : divided(settings, infos, mup)) {
    std::vector<OptimizedParameter> own;
    for (const int number : numbers) own.push_back(parameters[static_cast<size_t>(number)]);
    groups.push_back({make_one(settings, group, steps, seed, std::move(own), shares), learning_rate_factor});
  }
  return std::make_unique<GroupedOptimizer>(std::move(groups));
}

}  // namespace nibble
