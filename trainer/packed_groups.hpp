// A model's weights on their way into a file as codes and scales.
//
// What lies in one buffer of the layout is quantized under one tensor scale and makes one group of tensors: its rows
// are read twice, first for their largest magnitude, which also finds what is not finite. Not for: containers (safetensors.hpp, gguf.hpp), formats
// (packed_format.hpp).
#pragma once

#include <span>
#include <vector>

#include "tensor/stream.hpp"
#include "trainer/packing_plan.hpp"
#include "trainer/row_type.hpp"
#include "trainer/tensor_group.hpp"
#include "trainer/weight_source.hpp"

namespace nibble {

/// Of compressed-tensors: all parameters; matrices that the plan leaves alone as elements of `other`, gains as F32,
/// which they are in training. `input_scales`, by buffer, are what nvfp4's activations are divided by on their way to
/// E4M3 scales; empty: the file says nothing of activations' scales. `stream` and `source` must outlive the groups.
/// What they write throws Error{numerics} for weights that are not finite.
std::vector<TensorGroup> packed_groups(Stream& stream, WeightSource& source, const PackingPlan& plan,
                                       const RowType& other, std::span<const float> input_scales = {});

/// The same weights as training multiplied them, where the plan has its codes; of all others the working copy. Blocks
/// of GGUF's MXFP4 hold such values of MX formats exactly.
class MultipliedWeights final : public WeightSource {
 public:
  MultipliedWeights(Stream& stream, WeightSource& source, const PackingPlan& plan);

  void read_rows(size_t parameter, int64_t first, const Tensor& into) override;

 private:
  Stream& stream_;
  WeightSource& source_;
  const PackingPlan& plan_;
  std::vector<float> magnitudes_;  ///< by buffer; below 0: not known yet
};

}  // namespace nibble
