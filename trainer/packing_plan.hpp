// Which weights of a model become codes of a format, and whether these are the codes that training multiplied.
//
// Training quantizes a projection's whole buffer: q|k|v and gate|up are under one tensor scale, as engines that
// multiply them as one matrix need it. Embedding, head and norms stay as they are, and so does what the run kept from
// being quantized. Not for: bytes (packed_weights.hpp).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "model/parameters.hpp"
#include "trainer/packed_format.hpp"

namespace nibble {

/// What becomes of the weight of a projection.
struct PackedProjection {
  Quantizer quantizer;
  /// Empty: the codes are those that training multiplied. Else why they are not, and are rounded to nearest instead.
  std::string rounded_because{};
  Quantizer input{};  ///< of activations, where training quantized them so that the format can say it; else none

  bool trained() const { return rounded_because.empty(); }
};

struct PackingPlan {
  PackedFormat format = PackedFormat::nvfp4;
  DType working = DType::bf16;                           ///< what is quantized: the masters rounded to this type
  std::vector<std::optional<PackedProjection>> buffers;  ///< by buffer of the layout; none: it stays

  /// How many projections are packed, or only those of one kind.
  int64_t packed() const;
  int64_t trained() const;
  /// Why the first that is rounded is; empty where none is.
  std::string rounded_because() const;
};

/// `precision` is that of the model's last step (precision_for). If it quantizes no weight at all, all projections are
/// rounded; else those whose weights it leaves alone stay.
/// Throws Error{configuration} where blocks do not divide the input features.
PackingPlan plan_packing(const ParameterLayout& layout, const Precision& precision, PackedFormat format);

/// The format that holds all codes that training multiplied. Throws Error{configuration} where there is none: nothing
/// is quantized, weights are rotated first, formats differ ...; it says what can be done.
PackedFormat trained_format(const ParameterLayout& layout, const Precision& precision);

}  // namespace nibble
