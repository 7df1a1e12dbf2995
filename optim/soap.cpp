#include "optim/soap.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>
#include <utility>

#include "optim/adamw.hpp"
#include "optim/constants.hpp"
#include "optim/decompositions.hpp"
#include "optim/descend.hpp"
#include "tensor/convert.hpp"

namespace nibble {
namespace {

SoapSettings valid(const SoapSettings& settings) {
  const OptimizerConstants check("SOAP", "usual values: beta1 0.95, beta2 0.95, epsilon 1e-8, every 10");
  check.memory("beta1", settings.beta1);
  check.memory("beta2", settings.beta2);
  check.memory("soap.factor_beta", settings.factor_beta);
  check.positive("epsilon", settings.epsilon);
  check.at_least_one("soap.every", settings.every);
  check.at_least_one("soap.max_side", settings.max_side);
  check.not_negative("weight_decay", settings.weight_decay);
  return settings;
}

/// The square, and m, g and the direction turned.
double step_operations(const SoapSettings& settings, const ParameterInfo& matrix) {
  return side_products(matrix, settings.max_side, 3.5);
}

/// A power iteration, and Householder's QR with its q.
double basis_operations(const SoapSettings& settings, const ParameterInfo& matrix) {
  return side_cubes(matrix, settings.max_side, 2 + 8.0 / 3);
}

/// By what the factor makes of them, largest first.
std::vector<int64_t> sorted_by_eigenvalue(const Tensor& basis, const Tensor& product) {
  std::vector<double> values;
  for (int64_t k = 0; k < basis.rows; ++k)
    values.push_back(
        std::inner_product(basis.row<float>(k), basis.row<float>(k) + basis.cols, product.row<float>(k), 0.0));
  std::vector<int64_t> order(values.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return values[static_cast<size_t>(a)] > values[static_cast<size_t>(b)];
  });
  return order;
}

/// Row k becomes row order[k] of `from`, of length 1: which changes no direction, and keeps squares of small numbers
/// from vanishing.
void take_unit_rows(const Tensor& from, const std::vector<int64_t>& order, const Tensor& to) {
  for (int64_t k = 0; k < to.rows; ++k) {
    const float* const row = from.row<float>(order[static_cast<size_t>(k)]);
    double squares = 0;
    for (int64_t j = 0; j < to.cols; ++j) squares += static_cast<double>(row[j]) * static_cast<double>(row[j]);
    const double factor = squares > 0 ? 1 / std::sqrt(squares) : 0;
    for (int64_t j = 0; j < to.cols; ++j)
      to.row<float>(k)[j] = static_cast<float>(static_cast<double>(row[j]) * factor);
  }
}

/// The basis whose rows span what those of `product`, basis times factor, do, largest first; their order. The product
/// is overwritten.
std::vector<int64_t> take_next_basis(const Tensor& product, const Tensor& basis, const std::string& what) {
  std::vector<int64_t> order = sorted_by_eigenvalue(basis, product);
  take_unit_rows(product, order, basis);
  orthonormalize_rows(basis, product, what);
  return order;
}

std::vector<int64_t> take_next_basis(Stream& stream, const Tensor& product, const Tensor& basis,
                                     const std::string& what) {
  if (!stream.on_device()) return take_next_basis(product, basis, what);
  const OwnedTensor product_here = brought_to_host(stream, product), basis_here = brought_to_host(stream, basis);
  std::vector<int64_t> order = take_next_basis(product_here, basis_here, what);
  copy(stream, basis_here, basis);
  stream.wait();
  return order;
}

}  // namespace

double soap_work(const SoapSettings& settings, const ParameterInfo& matrix) {
  return step_operations(settings, matrix) + basis_operations(settings, matrix) / static_cast<double>(settings.every);
}

void rehearse_soap(Stream& stream, const SoapSettings& settings, const ParameterInfo& matrix) {
  rehearse_sides(stream, matrix, settings.max_side,
                 [&](const Tensor& gradient, const TwoSides& sides, const TwoSidedScratch& scratch) {
                   update_factors(stream, gradient, sides, settings.factor_beta, scratch);
                   for (const Tensor& side : {sides.left, sides.right})
                     if (side)
                       tiled_product(stream, side, Transpose::no, side, Transpose::no, scratch.square(side.rows));
                   multiply_sides(stream, sides, Transpose::no, gradient, Transpose::yes, scratch);
                   multiply_sides(stream, sides, Transpose::yes, gradient, Transpose::no, scratch);
                 });
}

Soap::Soap(std::vector<OptimizedParameter> matrices, const SoapSettings& settings, const ParameterShares& shares)
    : parameters_(std::move(matrices)),
      settings_(valid(settings)),
      states_(parameters_.size()),
      whole_(parameters_, DType::f32,
             work_of(parameters_, [this](const ParameterInfo& info) { return soap_work(settings_, info); }), shares),
      scratch_(two_sided_scratch(parameters_, whole_, settings_.max_side, shares)) {
  memory_ = Arena(
      "optimizer moments",
      [this](Arena& arena) {
        for (size_t i = 0; i < parameters_.size(); ++i) {
          if (!whole_.owns(i)) continue;
          const ParameterInfo& info = *parameters_[i].info;
          states_[i] = {.first_moment = arena.take_packed(DType::f32, info.rows, info.cols),
                        .second_moment = arena.take_packed(DType::f32, info.rows, info.cols),
                        .factors = take_sides(arena, info, settings_.max_side),
                        .basis = take_sides(arena, info, settings_.max_side)};
        }
      },
      masters_place(parameters_));
}

void Soap::step(Stream& stream, const StepContext& context) {
  assert(context.step >= 1 && std::isfinite(context.learning_rate) && std::isfinite(context.gradient_scale));
  const bool first = context.step == 1, renews = !first && (context.step - 1) % settings_.every == 0;
  whole_.pass(stream, {
                          .kernel = first    ? "soap_first_basis"
                                    : renews ? "soap_with_new_basis"
                                             : "soap",
                          .operations =
                              [&](size_t i) {
                                const ParameterInfo& info = *parameters_[i].info;
                                return step_operations(settings_, info) +
                                       (renews ? basis_operations(settings_, info) : 0);
                              },
                          .change =
                              [&](size_t i, const Tensor& whole, int64_t thread) {
                                const TwoSidedScratch& scratch = scratch_[static_cast<size_t>(thread)];
                                scale_into(stream, whole, static_cast<float>(context.gradient_scale), false, whole);
                                if (first) begin_basis(stream, i, whole, scratch);
                                else rotate_and_divide(stream, context, i, whole, scratch);
                                if (renews) renew_basis(stream, i, scratch);
                              },
                          .read =
                              [&](size_t i, const Tensor& part) {
                                if (first) return;
                                descend(stream, parameters_[i], part, 1, settings_.weight_decay, context.learning_rate);
                              },
                      });
}

void Soap::begin_basis(Stream& stream, size_t matrix, const Tensor& gradient, const TwoSidedScratch& scratch) {
  const auto& [first_moment, second_moment, factors, basis] = states_[matrix];
  update_factors(stream, gradient, factors, settings_.factor_beta, scratch);
  const std::string& name = parameters_[matrix].info->name;
  if (basis.left) eigenvectors(stream, factors.left, basis.left, name + ": left factor");
  if (basis.right) eigenvectors(stream, factors.right, basis.right, name + ": right factor");
}

void Soap::rotate_and_divide(Stream& stream, const StepContext& context, size_t matrix, const Tensor& gradient,
                             const TwoSidedScratch& scratch) {
  const auto& [first_moment, second_moment, factors, basis] = states_[matrix];
  update_factors(stream, gradient, factors, settings_.factor_beta, scratch);
  const Tensor moment = scratch.like(gradient, 0);
  momentum_update(stream, gradient, moment_over(first_moment), moment,
                  {.gradient_scale = static_cast<float>(1 - settings_.beta1),
                   .momentum = static_cast<float>(settings_.beta1),
                   .nesterov = false,
                   .step = 0});
  multiply_sides(stream, basis, Transpose::no, moment, Transpose::yes, scratch);
  multiply_sides(stream, basis, Transpose::no, gradient, Transpose::yes, scratch);
  adam_direction(stream, gradient, moment, second_moment, gradient,
                 adamw_factors({.beta1 = settings_.beta1, .beta2 = settings_.beta2, .epsilon = settings_.epsilon},
                               {.step = context.step - 1, .learning_rate = 1}));
  multiply_sides(stream, basis, Transpose::yes, gradient, Transpose::no, scratch);
}

void Soap::renew_basis(Stream& stream, size_t matrix, const TwoSidedScratch& scratch) {
  const auto& [first_moment, second_moment, factors, basis] = states_[matrix];
  const Tensor sorted = scratch.like(second_moment, 0);
  const auto renew = [&](const Tensor& factor, const Tensor& side, Reordered which, const char* what) {
    if (!side) return;
    const Tensor product = scratch.square(side.rows);
    tiled_product(stream, side, Transpose::no, factor, Transpose::no, product);
    const std::vector<int64_t> order = take_next_basis(stream, product, side, parameters_[matrix].info->name + what);
    reorder(stream, second_moment, which, order, sorted);
    copy(stream, sorted, second_moment);
  };
  renew(factors.left, basis.left, Reordered::rows, ": left factor");
  renew(factors.right, basis.right, Reordered::columns, ": right factor");
}

void Soap::state(StateList& list) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const ParameterInfo& info = *parameters_[i].info;
    const auto& [first_moment, second_moment, factors, basis] = states_[i];
    add_packed(list, "optimizer/first_moment", info, first_moment);
    add_packed(list, "optimizer/rotated_second_moment", info, second_moment);
    add_sides(list, "factor", info, factors, settings_.max_side);
    add_sides(list, "basis", info, basis, settings_.max_side);
  }
}

}  // namespace nibble
