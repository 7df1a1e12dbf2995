// Work of a queue that the device gets at once: a CUDA graph, in which a kernel follows another sooner than one that is
// launched by itself.
//
// The work is recorded anew each time, and the graph of the time before takes over what differs: arguments such as
// seeds and places in rings. Kernels and their order are those of the work itself, and so are the numbers.
// Not for: work that the host takes part in (below).
#pragma once

#include <functional>
#include <memory>

#include "tensor/cuda/device.hpp"

namespace nibble::cuda {

class Graph {
 public:
  virtual ~Graph() = default;

  /// Queues what `work` queues on the graph's queue, on the calling thread. It neither waits nor takes memory, copies
  /// within the device's memory alone, and brings in no other queue: work that chooses algorithms or grows buffers the
  /// first time has been done before. Throws Error{resource} where it is otherwise, and what `work` throws; then
  /// nothing of it is queued.
  virtual void run(const std::function<void()>& work) = 0;
};

/// The queue outlives it.
[[gnu::weak]] std::unique_ptr<Graph> make_graph(Queue& queue);

}  // namespace nibble::cuda
