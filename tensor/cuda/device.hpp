// A CUDA device as host code sees it: which there are, their memory, and queues of work.
//
// Two implementations: the CUDA runtime (runtime.cu), and the emulation (emulation/device.cpp), which has devices in
// host memory and runs the same kernels on host threads, for machines without a GPU. A program is linked with one of
// them or with neither: what is declared weak is then not available(). Not for: kernels (kernel.hpp).
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace nibble::cuda {

struct DeviceFacts {
  std::string name;
  std::string identity;  ///< the same in every process that sees this device, and no other device's
  int architecture = 0;  ///< 90 for compute capability 9.0
  int processors = 0;    ///< streaming multiprocessors
  size_t memory = 0;     ///< bytes
  size_t free = 0;       ///< of them, now; 0 of one that the calling thread has not selected
};

/// The devices that this process may use, in the order of the runtime; none without a driver.
[[gnu::weak]] std::vector<DeviceFacts> devices();

/// Memory that a block of the selected device may have in common, in bytes.
[[gnu::weak]] size_t largest_block_memory();

/// What the calling thread's next calls are about.
[[gnu::weak]] void select(int device);

/// Memory of the selected device, zero. Throws Error{resource} where there is none left.
[[gnu::weak]] void* allocate(size_t bytes);
/// Waits for all work of the device.
[[gnu::weak]] void release(void* memory);

/// Host memory that queues copy from and to without a detour.
[[gnu::weak]] void* allocate_pinned(size_t bytes);
[[gnu::weak]] void release_pinned(void* memory);

/// Work of the selected device in order: kernels, copies. It is done some time after it was queued; until wait() has
/// returned, host code neither reads what it writes nor changes what it reads.
class Queue {
 public:
  virtual ~Queue() = default;

  /// Rows of `bytes` each, whose beginnings lie apart as the strides (in bytes) say; from and to any memory.
  virtual void copy(void* to, size_t to_stride, const void* from, size_t from_stride, size_t bytes, size_t rows) = 0;
  void copy(void* to, const void* from, size_t bytes) { copy(to, bytes, from, bytes, bytes, 1); }
  /// Work that is queued here from now on begins after all that `other` has now.
  virtual void after(Queue& other) = 0;
  /// Throws Error{resource} when the device failed, and what emulated work threw.
  virtual void wait() = 0;
  /// Whether nothing is left to do; returns at once. Throws as wait().
  virtual bool done() = 0;
};
[[gnu::weak]] std::unique_ptr<Queue> make_queue();
/// What libraries call it: its cudaStream_t.
[[gnu::weak]] void* handle(Queue& queue);

/// What the queue's device takes for the work that `work` queues there, after all that was; waits for it.
[[gnu::weak]] double milliseconds(Queue& queue, const std::function<void()>& work);

/// Whether this program has code for devices.
inline bool available() { return make_queue != nullptr; }

}  // namespace nibble::cuda
