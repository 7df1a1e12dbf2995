#include "trainer/metric_columns.hpp"

#include <algorithm>

namespace nibble {
namespace {

constexpr std::string_view update_rms = "update_rms_", orthogonality_error = "orthogonality_error_";

}  // namespace

const std::vector<MetricColumn>& metric_columns() {
  static const std::vector<MetricColumn> columns = {
      {"step", ""},
      {"time", ""},
      {"tokens", "progress/tokens"},
      {"loss_tokens", "progress/loss_tokens"},
      {"epoch", "progress/epoch"},
      {"loss", "loss/train"},
      {"z_loss", "loss/z_loss"},
      {"learning_rate", "optimizer/learning_rate"},
      {"gradient_norm", "optimizer/gradient_norm"},
      {"max_logit", "attention/max_logit"},
      {"clipped_heads", "attention/clipped_heads"},
      {"refused", "optimizer/refused"},
      {"tokens_per_second", "speed/tokens_per_second"},
      {"peak_share", "speed/peak_share"},
      {"seconds", "seconds/step"},
      {"seconds_data", "seconds/data"},
      {"seconds_forward_backward", "seconds/forward_backward"},
      {"seconds_exchange", "seconds/exchange"},
      {"seconds_optimizer", "seconds/optimizer"},
      {"seconds_validation", "seconds/validation"},
      {"seconds_checkpoint", "seconds/checkpoint"},
      {"seconds_communication", "seconds/communication"},
      {"bytes_sent", "communication/bytes_sent"},
      {"bytes_sent_matrices", "communication/bytes_sent_matrices"},
      {"exchange_error", "communication/exchange_error"},
      {"exchange_residual", "communication/exchange_residual"},
      {"exchange_signal_ratio", "communication/exchange_signal_ratio"},
      {"validation_loss", "loss/validation"},
      {"validation_bits_per_byte", "loss/validation_bits_per_byte"},
      {"validation_gap", "loss/validation_gap"},
      {"entropy", "loss/entropy"},
      {"peak_resident_bytes", "memory/peak_resident_bytes"},
      {"retuned", "progress/retuned"},
  };
  return columns;
}

std::vector<std::string> metric_column_names() {
  std::vector<std::string> names;
  for (const MetricColumn& column : metric_columns()) names.emplace_back(column.name);
  return names;
}

std::string update_rms_column(std::string_view group) { return std::string(update_rms) + std::string(group); }

std::string orthogonality_error_column(std::string_view group) {
  return std::string(orthogonality_error) + std::string(group);
}

std::string metric_tag(std::string_view name) {
  if (name.starts_with(update_rms) || name.starts_with(orthogonality_error)) return "optimizer/" + std::string(name);
  const std::vector<MetricColumn>& columns = metric_columns();
  const auto found = std::ranges::find(columns, name, &MetricColumn::name);
  return found == columns.end() ? "other/" + std::string(name) : found->tag;
}

}  // namespace nibble
