// What one queue of a device waits for in another: all that this had to do at one time, and not what came later.
//
// Queue::after takes the other queue as it is now; a mark is taken by the thread that queues the work, and used by
// another one when it comes to it. Not for: waiting on the host (Queue::wait).
#pragma once

#include <memory>

#include "tensor/cuda/device.hpp"

namespace nibble::cuda {

class Mark {
 public:
  virtual ~Mark() = default;
};

/// Of what is queued there by now. The queue outlives it.
[[gnu::weak]] std::unique_ptr<Mark> mark(Queue& queue);
/// Work that is queued there from now on begins after what was marked.
[[gnu::weak]] void begin_after(Queue& queue, const Mark& mark);

}  // namespace nibble::cuda
