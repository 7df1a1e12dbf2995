// What quantization did to the operands of each layer, summed over the calls that were observed.
//
// Not for: the measurement (quant/quantized_linear.cpp), a run's record of it (operand_record.hpp).
#pragma once

#include <cstdint>
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

class OperandStatistics final : public OperandObserver {
 public:
  void observe(const OperandPlace& place, const OperandError& error, const QuantizationCounts& counts) override;
  /// In the order in which a pass first quantized them.
  const std::vector<OperandStatistic>& all() const { return all_; }

 private:
  std::vector<OperandStatistic> all_;
};

}  // namespace nibble
