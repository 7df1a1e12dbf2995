// Errors of the CUDA runtime, and its queues.
#pragma once

#include <cuda_runtime.h>

#include "tensor/cuda/device.hpp"

namespace nibble::cuda {

/// Throws Error{resource} for a failed call; `what` was asked for.
void check(cudaError_t status, const char* what);

class CudaQueue final : public Queue {
 public:
  CudaQueue();
  ~CudaQueue() override;
  CudaQueue(const CudaQueue&) = delete;
  CudaQueue& operator=(const CudaQueue&) = delete;

  using Queue::copy;
  void copy(void* to, size_t to_stride, const void* from, size_t from_stride, size_t bytes, size_t rows) override;
  void after(Queue& other) override;
  void wait() override;
  bool done() override;

  cudaStream_t stream() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
  cudaEvent_t reached_ = nullptr;  ///< recorded where another queue waits for this one
};

inline cudaStream_t stream_of(Queue& queue) { return static_cast<CudaQueue&>(queue).stream(); }

}  // namespace nibble::cuda
