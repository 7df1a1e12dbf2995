#include "optim/shampoo.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <utility>

#include "optim/adamw.hpp"
#include "optim/constants.hpp"
#include "optim/descend.hpp"
#include "optim/gradient_norm.hpp"
#include "tensor/error.hpp"

namespace nibble {
namespace {

ShampooSettings valid(const ShampooSettings& settings) {
  const OptimizerConstants check("Shampoo", "usual values: beta1 0.95, beta2 0.95, shampoo.epsilon 1e-12, every 10");
  check.memory("beta1", settings.beta1);
  check.memory("beta2", settings.beta2);
  check.positive("epsilon", settings.graft_epsilon);
  check.positive("shampoo.epsilon", settings.epsilon);
  check.positive("shampoo.exponent", settings.exponent);
  check.at_least_one("shampoo.every", settings.every);
  check.at_least_one("shampoo.max_side", settings.max_side);
  check.not_negative("weight_decay", settings.weight_decay);
  return settings;
}

/// Products with a side in a step.
constexpr double squares = 0.5, directions = 1;

/// Tridiagonalisation, its vectors and their rotations, and the root from these.
double root_operations(const ShampooSettings& settings, const ParameterInfo& matrix) {
  return side_cubes(matrix, settings.max_side, 10);
}

double bias_correction(double beta, int64_t step) { return 1 - std::pow(beta, static_cast<double>(step)); }

/// root = (factor / correction + epsilon)^-exponent = s sᵀ, where the columns of s are the eigenvectors, each times the
/// root of its eigenvalue's power. `scratch` is [n, n].
void take_root(Stream& stream, const Tensor& factor, double correction, double epsilon, double exponent,
               const Tensor& root, const Tensor& scratch, const std::string& what) {
  const std::vector<double> values = eigenvectors(stream, factor, scratch, what);
  const double shift = epsilon - std::min(values.back() / correction, 0.0);
  std::vector<float> scales;
  for (const double value : values)
    scales.push_back(static_cast<float>(std::pow(value / correction + shift, -exponent / 2)));
  scale_rows(stream, scratch, scales);
  square_product(stream, scratch, Transpose::yes, root);
}

}  // namespace

double shampoo_work(const ShampooSettings& settings, const ParameterInfo& matrix) {
  return side_products(matrix, settings.max_side, squares + directions) +
         root_operations(settings, matrix) / static_cast<double>(settings.every);
}

void rehearse_shampoo(Stream& stream, const ShampooSettings& settings, const ParameterInfo& matrix) {
  rehearse_sides(stream, matrix, settings.max_side,
                 [&](const Tensor& gradient, const TwoSides& sides, const TwoSidedScratch& scratch) {
                   update_factors(stream, gradient, sides, settings.beta2, scratch);
                   for (const Tensor& side : {sides.left, sides.right})
                     if (side) square_product(stream, side, Transpose::yes, scratch.square(side.rows));
                   multiply_sides(stream, sides, Transpose::no, gradient, Transpose::no, scratch);
                 });
}

Shampoo::Shampoo(std::vector<OptimizedParameter> matrices, const ShampooSettings& settings,
                 const ParameterShares& shares)
    : parameters_(std::move(matrices)),
      settings_(valid(settings)),
      states_(parameters_.size()),
      whole_(parameters_, DType::f32,
             work_of(parameters_, [this](const ParameterInfo& info) { return shampoo_work(settings_, info); }), shares),
      scratch_(two_sided_scratch(parameters_, whole_, settings_.max_side, shares)) {
  memory_ = Arena(
      "optimizer moments",
      [this](Arena& arena) {
        for (size_t i = 0; i < parameters_.size(); ++i) {
          if (!whole_.owns(i)) continue;
          const ParameterInfo& info = *parameters_[i].info;
          const auto take = [&] { return arena.take_packed(DType::f32, info.rows, info.cols); };
          states_[i] = {.first_moment = take(),
                        .second_moment = settings_.grafting == Grafting::adam ? take() : Tensor(),
                        .factors = take_sides(arena, info, settings_.max_side),
                        .roots = take_sides(arena, info, settings_.max_side)};
        }
      },
      masters_place(parameters_));
}

void Shampoo::step(Stream& stream, const StepContext& context) {
  assert(context.step >= 1 && std::isfinite(context.learning_rate) && std::isfinite(context.gradient_scale));
  const bool begins = context.step < settings_.every, grafts = settings_.grafting != Grafting::none;
  const bool takes_roots = begins ? !grafts : context.step % settings_.every == 0;
  whole_.pass(stream, {
                          .kernel = takes_roots ? "shampoo_with_new_roots" : "shampoo",
                          .operations =
                              [&](size_t i) {
                                const ParameterInfo& info = *parameters_[i].info;
                                return side_products(info, settings_.max_side, squares + directions) +
                                       (takes_roots ? root_operations(settings_, info) : 0);
                              },
                          .change =
                              [&](size_t i, const Tensor& whole, int64_t thread) {
                                const TwoSidedScratch& scratch = scratch_[static_cast<size_t>(thread)];
                                scale_into(stream, whole, static_cast<float>(context.gradient_scale), false, whole);
                                const Tensor moment = take_in(stream, i, whole, scratch);
                                if (takes_roots) take_roots(stream, context.step, i, scratch);
                                if (grafts) graft(stream, context.step, i, whole);
                                if (!(begins && grafts)) precondition(stream, context.step, i, moment, whole, scratch);
                              },
                          .read =
                              [&](size_t i, const Tensor& part) {
                                descend(stream, parameters_[i], part, 1, settings_.weight_decay, context.learning_rate);
                              },
                      });
}

Tensor Shampoo::take_in(Stream& stream, size_t matrix, const Tensor& gradient, const TwoSidedScratch& scratch) {
  update_factors(stream, gradient, states_[matrix].factors, settings_.beta2, scratch);
  const Tensor moment = scratch.like(gradient, 0);
  momentum_update(stream, gradient, moment_over(states_[matrix].first_moment), moment,
                  {.gradient_scale = static_cast<float>(1 - settings_.beta1),
                   .momentum = static_cast<float>(settings_.beta1),
                   .nesterov = false,
                   .step = 0});
  return moment;
}

void Shampoo::take_roots(Stream& stream, int64_t step, size_t matrix, const TwoSidedScratch& scratch) {
  const auto& [first_moment, second_moment, factors, roots] = states_[matrix];
  const double correction = bias_correction(settings_.beta2, step);
  const auto take = [&](const Tensor& factor, const Tensor& root, const char* side) {
    if (root)
      take_root(stream, factor, correction, settings_.epsilon, settings_.exponent, root, scratch.square(root.rows),
                parameters_[matrix].info->name + side);
  };
  take(factors.left, roots.left, ": left factor");
  take(factors.right, roots.right, ": right factor");
}

void Shampoo::graft(Stream& stream, int64_t step, size_t matrix, const Tensor& gradient) {
  const Tensor& moment = states_[matrix].first_moment;
  if (settings_.grafting == Grafting::adam)
    adam_direction(
        stream, gradient, moment, states_[matrix].second_moment, gradient,
        adamw_factors({.beta1 = settings_.beta1, .beta2 = settings_.beta2, .epsilon = settings_.graft_epsilon},
                      {.step = step, .learning_rate = 1}));
  else scale_into(stream, moment, static_cast<float>(1 / bias_correction(settings_.beta1, step)), false, gradient);
}

void Shampoo::precondition(Stream& stream, int64_t step, size_t matrix, const Tensor& moment, const Tensor& grafted,
                           const TwoSidedScratch& scratch) {
  const auto length = [&](const Tensor& x) { return gradient_norm(gradient_square_sums(stream, {&x, 1})); };
  multiply_sides(stream, states_[matrix].roots, Transpose::no, moment, Transpose::no, scratch);
  const double before = length(moment);
  if (!std::isfinite(before))
    throw Error({.kind = ErrorKind::numerics,
                 .what = "Shampoo's direction is not finite",
                 .where = parameters_[matrix].info->name,
                 .seen = fmt::format("{}", before),
                 .allowed = "directions that float32 holds",
                 .next = "raise optimizer.shampoo.epsilon or lower optimizer.shampoo.exponent"});
  const double factor = settings_.grafting == Grafting::none ? 1 / bias_correction(settings_.beta1, step)
                        : before > 0                         ? length(grafted) / before
                                                             : 0;
  scale_into(stream, moment, static_cast<float>(factor), false, grafted);
}

void Shampoo::state(StateList& list) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const ParameterInfo& info = *parameters_[i].info;
    const auto& [first_moment, second_moment, factors, roots] = states_[i];
    add_packed(list, "optimizer/first_moment", info, first_moment);
    if (settings_.grafting == Grafting::adam) add_packed(list, "optimizer/second_moment", info, second_moment);
    add_sides(list, "factor", info, factors, settings_.max_side);
    add_sides(list, "root", info, roots, settings_.max_side);
  }
}

}  // namespace nibble
