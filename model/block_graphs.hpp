// Blocks of training passes as CUDA graphs (tensor/cuda/graph.hpp): one for each block's forward pass and one for its
// backward pass.
//
// Not for: what a block computes (llama.hpp).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "quant/precision.hpp"
#include "tensor/cuda/graph.hpp"
#include "tensor/stream.hpp"

namespace nibble {

class BlockGraphs {
 public:
  enum class Part { forward, backward };

  /// Of a device's stream, which outlives them.
  BlockGraphs(Stream& stream, const Precision& precision, int64_t layers);

  /// Queues `work`, a part of a block with the recipes of `step`. Where these change, and at first, by itself: then
  /// products choose their algorithms and buffers grow, which a graph cannot have.
  void run(int64_t layer, Part part, int64_t step, const std::function<void()>& work);
  /// Products have been given other algorithms: the next work is queued by itself.
  void forget();

 private:
  struct Of {
    std::unique_ptr<cuda::Graph> graph;
    int64_t known_phase = -1;  ///< whose work has been done by itself
  };

  Stream& stream_;
  std::vector<int64_t> changes_;  ///< steps with which a recipe of any layer begins
  std::vector<Of> parts_;
};

}  // namespace nibble
