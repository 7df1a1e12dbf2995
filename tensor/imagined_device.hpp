// A device that only exists to be weighed: its memory is addresses without anything behind them, and the ledger
// (memory.hpp) knows what was taken. So what a run will hold on a GPU is known without one, and without a page of it.
//
//   const ImaginedDevice imagined(90);
//   Stream stream(1, Place::device);  // parts that are made on it now, by this thread, take no memory
//
// Copies that are queued on it are forgotten; a kernel must not be. Not for: tests of kernels (cuda/emulation/).
#pragma once

#include <cstddef>
#include <memory>

#include "tensor/cuda/device.hpp"

namespace nibble {

/// While it lives, streams, queues and buffers of devices, and pinned memory, that its thread makes are imagined. They
/// may outlive it.
class ImaginedDevice {
 public:
  /// `architecture`: 90 for compute capability 9.0.
  explicit ImaginedDevice(int architecture);
  ~ImaginedDevice();
  ImaginedDevice(const ImaginedDevice&) = delete;
  ImaginedDevice& operator=(const ImaginedDevice&) = delete;

  int architecture() const { return architecture_; }

 private:
  const int architecture_;
  const ImaginedDevice* const before_;
};

/// The one of the calling thread; null: there is none.
const ImaginedDevice* imagined_device();

/// Addresses that nobody may read or write; munmap gives them back. Null where the system has none left.
void* imagined_memory(size_t bytes);

/// Of the device that the calling thread has selected, or imagines.
std::unique_ptr<cuda::Queue> new_queue();

}  // namespace nibble
