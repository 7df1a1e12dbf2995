// What a step's updates are like: their length, and how nearly orthogonal the directions of matrices are.
//
// The update is, as in Liu et al., "Muon is scalable for LLM training", arXiv 2502.16982, section 2.2, what the
// learning rate is multiplied with, weight decay apart: of AdamW first moment / root of the second, of Muon with their
// scale 0.2 sqrt(longer side) O. Here it is found as the change of the masters, so with their rounding. Not for: the
// sum over ranks, and when it is measured (trainer/update_record.hpp).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/parameters.hpp"

namespace nibble {

class UpdateMeter {
 public:
  explicit UpdateMeter(const std::vector<ParameterInfo>& parameters);

  /// Forgets what it knows. While it is on, optimizers tell it of what they do.
  void start();
  void stop() { on_ = false; }
  bool on() const { return on_; }

  /// By block of 4096 elements, numbered through all parameters (Partition): the sum of the squares of the masters'
  /// change without decay; those of this rank's blocks.
  std::span<double> squares() { return squares_; }
  /// Of the block with which this element of the parameter begins.
  double& squares(int parameter, int64_t element);

  /// By parameter: |O Oᵀ - 1|_F / sqrt(shorter side) of its orthogonalised direction O, on the rank that made it; else
  /// -1.
  std::span<double> orthogonality_errors() { return errors_; }

 private:
  bool on_ = false;
  std::vector<size_t> first_block_;  ///< by parameter
  std::vector<double> squares_, errors_;
};

}  // namespace nibble
