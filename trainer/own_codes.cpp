#include "trainer/own_codes.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "comm/max_all_reduce.hpp"

namespace nibble {
namespace {

/// A run's working copies as the whole rows that they are.
Tensor rows_of(const OptimizedParameter& parameter) {
  const int64_t cols = parameter.info->cols;
  return parameter.working.packed_as(parameter.working.size() / cols, cols);
}

}  // namespace

OwnCodes::OwnCodes(const Llama& model, const ShardPlan& plan, std::span<const OptimizedParameter> parameters,
                   Place place)
    : model_(&model), codes_(parameters.size()) {
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (plan.code_bits(parameters[i].info->buffer) == 0) continue;
    const bool same_buffer =
        !coded_.empty() && parameters[coded_.back().parameter].info->buffer == parameters[i].info->buffer;
    if (!same_buffer) magnitudes_.push_back(0);
    coded_.push_back({i, magnitudes_.size() - 1});
  }
  const auto lay_out = [&](Arena& arena) {
    for (const auto& [i, magnitude] : coded_) {
      const ParameterInfo& info = *parameters[i].info;
      const int64_t rows = parameters[i].master.size() / info.cols,
                    row_bytes = info.cols / 8 * plan.code_bits(info.buffer);
      codes_[i] =
          Tensor(DType::u8, arena.take(DType::u8, 1, rows * row_bytes).data, rows, row_bytes, row_bytes, arena.place());
    }
  };
  memory_ = Arena("weights as codes", lay_out, place);
}

void OwnCodes::follow(std::span<const OptimizedParameter> parameters, CommunicationThread& thread,
                      ParameterSet& gathered) {
  if (coded_.empty()) return;
  std::ranges::fill(magnitudes_, 0.0f);
  for (const auto& [i, place] : coded_) {
    const OptimizedParameter& parameter = parameters[i];
    float& largest = magnitudes_[place];
    const float here = model_->weight_magnitude(parameter.info->buffer, rows_of(parameter));
    // What ranks compare are magnitudes: a NaN is none.
    largest = std::max(largest, std::isnan(here) ? std::numeric_limits<float>::infinity() : here);
  }
  thread.run([this](Communicator& ranks) { max_all_reduce(ranks, magnitudes_); });
  for (const auto& [i, place] : coded_) {
    const int buffer = parameters[i].info->buffer;
    gathered.set_factor(buffer, model_->encode_weight(buffer, rows_of(parameters[i]), magnitudes_[place], codes_[i]));
  }
}

std::vector<OwnCodes::Rows> OwnCodes::rows(std::span<const OptimizedParameter> parameters, int buffer) const {
  std::vector<Rows> rows;
  for (const auto& [i, place] : coded_)
    if (parameters[i].info->buffer == buffer)
      rows.push_back({parameters[i], rows_of(parameters[i]), magnitudes_[place]});
  return rows;
}

}  // namespace nibble
