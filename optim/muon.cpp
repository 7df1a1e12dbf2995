#include "optim/muon.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <utility>

#include "optim/constants.hpp"

namespace nibble {

using Piece = OffloadedState::Piece;

namespace {

MuonSettings valid(const MuonSettings& settings) {
  const OptimizerConstants check("Muon");
  check.memory("muon.momentum", settings.momentum);
  if (settings.row_beta2) check.memory("beta2", *settings.row_beta2);
  check.not_negative("weight_decay", settings.weight_decay);
  return settings;
}

}  // namespace

double muon_scale(MuonScale scale, int64_t rows, int64_t cols) {
  const auto height = static_cast<double>(rows), width = static_cast<double>(cols);
  switch (scale) {
    case MuonScale::original:
      return std::sqrt(std::max(1.0, height / width));
    case MuonScale::spectral:
      return std::sqrt(height / width);
    case MuonScale::moonlight:
      return 0.2 * std::sqrt(std::max(height, width));
  }
  return 1;
}

double orthogonalisation_work(const NewtonSchulzSettings& settings, const ParameterInfo& matrix) {
  return newton_schulz_operations(matrix.rows, matrix.cols, settings.steps);
}

NewtonSchulz newton_schulz_of(const NewtonSchulzSettings& settings, std::span<const OptimizedParameter> matrices,
                              const WholeMatrices& whole, const ParameterShares& shares) {
  std::vector<NewtonSchulz::Shape> own, beside_others;
  for (size_t i = 0; i < matrices.size(); ++i) {
    if (!whole.owns(i)) continue;
    own.push_back({matrices[i].info->rows, matrices[i].info->cols});
    if (whole.changes_beside_others(i)) beside_others.push_back(own.back());
  }
  const Place place = masters_place(matrices);
  return {settings, own, beside_others, place == Place::host ? shares.threads : 1, place};
}

void orthogonalise(Stream& stream, NewtonSchulz& newton_schulz, const OptimizedParameter& parameter,
                   const Tensor& whole, int64_t thread) {
  newton_schulz(stream, whole, thread);
  if (parameter.meter && parameter.meter->on())
    parameter.meter->orthogonality_errors()[static_cast<size_t>(parameter.number)] =
        newton_schulz.orthogonality_error(stream, whole, thread);
}

Muon::Muon(std::vector<OptimizedParameter> matrices, const MuonSettings& settings, const ParameterShares& shares)
    : parameters_(std::move(matrices)),
      settings_(valid(settings)),
      whole_(parameters_, settings.newton_schulz.operands,
             work_of(parameters_,
                     [&](const ParameterInfo& info) { return orthogonalisation_work(settings.newton_schulz, info); }),
             shares),
      newton_schulz_(newton_schulz_of(settings.newton_schulz, parameters_, whole_, shares)) {
  memory_ = MomentMemory(settings_.moments, masters_place(parameters_), [this](auto& arena) {
    momenta_.clear();
    for (const OptimizedParameter& parameter : parameters_)
      momenta_.push_back(take_moment(arena, MomentKind::matrix_momentum, settings_.moments, parameter));
  });
  if (settings_.row_beta2)
    row_memory_ = Arena(
        "optimizer moments",
        [this](Arena& arena) {
          rows_.clear();
          for (size_t i = 0; i < parameters_.size(); ++i)
            rows_.push_back(arena.take(DType::f32, 1, whole_.owns(i) ? parameters_[i].info->rows : 0));
        },
        masters_place(parameters_));
  const std::vector<size_t> order = whole_.order();
  offloaded_momenta_ = offloaded_moments(masters_place(parameters_), momenta_, settings_.moments.portion, order);
  offloaded_masters_ = offloaded_state(parameters_, {}, settings_.moments.portion, order);
}

void Muon::step(Stream& stream, const StepContext& context) {
  assert(std::isfinite(context.learning_rate) && std::isfinite(context.gradient_scale));
  const MomentumFactors momentum{.gradient_scale = static_cast<float>(context.gradient_scale),
                                 .momentum = static_cast<float>(settings_.momentum),
                                 .nesterov = settings_.nesterov,
                                 .step = context.step};
  whole_.pass(
      stream,
      {
          .kernel = "newton_schulz",
          .operations = [&](size_t i) { return orthogonalisation_work(settings_.newton_schulz, *parameters_[i].info); },
          .write =
              [&](size_t i, const Tensor& part) {
                for_each_piece(offloaded_momenta_, stream, i, {.moments = {momenta_[i]}}, [&](const Piece& piece) {
                  momentum_update(stream, parameters_[i].gradient.run(piece.first, piece.size()), piece.moments[0],
                                  part.run(piece.first, piece.size()), momentum);
                });
              },
          .change =
              [&](size_t i, const Tensor& whole, int64_t thread) {
                orthogonalise(stream, newton_schulz_, parameters_[i], whole, thread);
                if (settings_.row_beta2) normalize_rows(stream, whole, rows_[i], *settings_.row_beta2);
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

void Muon::state(StateList& list) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    momenta_[i].state(list);
    if (settings_.row_beta2)
      list.add_run("optimizer/row_second_moment/" + parameters_[i].info->name, rows_[i], parameters_[i].info->rows, 1,
                   0);
  }
}

}  // namespace nibble
