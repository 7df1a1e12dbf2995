// A CUDA device as host code sees it: which there are, their memory, and queues of work.
//
// Two implementations: the CUDA runtime (runtime.cu), and the emulation (emulation/device.cpp), which has one device in
// host memory and runs the same kernels on host threads, for machines without a GPU. A program is linked with one of
// them. Not for: kernels (kernel.hpp).
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace nibble::cuda {

struct DeviceFacts {
  std::string name;
  int architecture = 0;  ///< 90 for compute capability 9.0
  int processors = 0;    ///< streaming multiprocessors
  size_t memory = 0;     ///< bytes
  size_t free = 0;       ///< of them, now
};

/// The devices that this process may use, in the order of the runtime; none without a driver.
std::vector<DeviceFacts> devices();

/// What the calling thread's next calls are about.
void select(int device);

/// Memory of the selected device, zero. Throws Error{resource} where there is none left.
void* allocate(size_t bytes);
/// Waits for all work of the device.
void release(void* memory);

/// Host memory that queues copy from and to without a detour.
void* allocate_pinned(size_t bytes);
void release_pinned(void* memory);

/// Work of the selected device in order: kernels, copies. It is done some time after it was queued; until wait() has
/// returned, host code neither reads what it writes nor changes what it reads.
class Queue {
 public:
  Queue();
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  /// From and to the device or host memory.
  void copy(void* to, const void* from, size_t bytes);
  void fill_bytes(void* memory, int value, size_t bytes);
  /// Work that is queued here from now on begins after all that `other` has now.
  void after(Queue& other);
  /// Throws Error{resource} when the device failed, and what emulated work threw.
  void wait();

  /// What the implementation queues on.
  struct Native;
  Native& native() { return *native_; }

 private:
  std::unique_ptr<Native> native_;
};

}  // namespace nibble::cuda
