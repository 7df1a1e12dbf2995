// What quantization did to the operands of each layer, summed over the calls that were observed.
//
// Not for: the measurement (quant/quantized_linear.cpp), a run's record of it (operand_record.hpp).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "quant/operand_observer.hpp"

namespace nibble {

struct OperandStatistic {
  OperandPlace place;
  OperandError error{};
  QuantizationCounts counts{};

  /// |x - q|^2 / |x|^2; no number where x is zero throughout.
  double relative_squared_error() const { return error.squared_error / error.squared; }
  // Shares of all elements.
  double clipped() const { return share(counts.clipped); }
  double masked() const { return share(counts.masked); }
  double underflow() const { return share(error.underflows); }

 private:
  double share(int64_t count) const { return static_cast<double>(count) / static_cast<double>(error.elements); }
};

/// What is told of an operand.
struct OperandMeasure {
  const char *key, *title, *meaning;
  double (OperandStatistic::*value)() const;
};
inline constexpr std::array<OperandMeasure, 4> operand_measures = {{
    {"relative_squared_error", "relative squared error", "|x - q|^2 / |x|^2",
     &OperandStatistic::relative_squared_error},
    {"clipped", "clipped", "share beyond the format's largest magnitude", &OperandStatistic::clipped},
    {"masked", "masked", "share that passes no gradient on", &OperandStatistic::masked},
    {"underflow", "underflow", "share that became zero", &OperandStatistic::underflow},
}};

/// "dx: dy" is the operand dy of the product dx.
std::string operand_title(const OperandPlace& place);

class OperandStatistics final : public OperandObserver {
 public:
  void observe(const OperandPlace& place, const OperandError& error, const QuantizationCounts& counts) override;
  /// In the order in which a pass first quantized them.
  const std::vector<OperandStatistic>& all() const { return all_; }

 private:
  std::vector<OperandStatistic> all_;
};

}  // namespace nibble
