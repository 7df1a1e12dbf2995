// Codes of this rank's rows of the weights, where these travel as codes: made anew from the working copies after each
// update, under scales that all ranks share.
//
// HALO's HQ-FSDP (arXiv 2501.02625): each rank rotates its own rows, the ranks agree on the largest magnitude of each
// matrix, and one byte an element (or fewer bits) is what every pass until the next update gathers.
// Not for: which weights travel so (weight_gather.hpp), the gathers themselves (sharded_weights.hpp).
#pragma once

#include <span>
#include <vector>

#include "comm/communication_thread.hpp"
#include "model/llama.hpp"
#include "optim/optimizer.hpp"
#include "trainer/shard_plan.hpp"

namespace nibble {

class OwnCodes {
 public:
  OwnCodes() = default;
  /// Memory at `place`, where the model computes, for the codes of `parameters`, this rank's runs: whole rows of the
  /// buffers that have plan.code_bits. `model` must outlive the object.
  OwnCodes(const Llama& model, const ShardPlan& plan, std::span<const OptimizedParameter> parameters, Place place);

  /// Of a parameter's run, u8 [rows, bytes of a row], packed; empty where its working copy travels.
  const Tensor& of(int parameter) const { return codes_[static_cast<size_t>(parameter)]; }

  /// Makes the codes of the working copies and tells `gathered`, which is to hold all rows, what to multiply them with.
  /// All ranks call it. A magnitude that is not finite makes codes that stand for nothing finite, on all ranks.
  void follow(std::span<const OptimizedParameter> parameters, CommunicationThread& thread, ParameterSet& gathered);

  /// The rows of a parameter's run, and the largest magnitude of its buffer's rows on all ranks.
  struct Rows {
    const OptimizedParameter& parameter;
    Tensor values;
    float magnitude;
  };
  /// Of a buffer's parameters; none where its working copy travels.
  std::vector<Rows> rows(std::span<const OptimizedParameter> parameters, int buffer) const;

 private:
  /// A parameter that travels as codes, with or without rows of this rank.
  struct Coded {
    size_t parameter, place;  ///< `place` of its buffer in magnitudes_
  };

  const Llama* model_ = nullptr;
  Arena memory_;
  std::vector<Tensor> codes_;  ///< by parameter
  std::vector<Coded> coded_;
  std::vector<float> magnitudes_;  ///< the largest of each buffer that travels as codes
};

}  // namespace nibble
