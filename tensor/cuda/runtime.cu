#include <string>

#include "tensor/cuda/check.cuh"
#include "tensor/error.hpp"

namespace nibble::cuda {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // one that can be forgotten does not stand in the way of the next call
  int device = -1;
  cudaGetDevice(&device);
  const bool memory = status == cudaErrorMemoryAllocation;
  throw Error({.kind = ErrorKind::resource,
               .what = std::string("the GPU failed: ") + what,
               .where = "device " + std::to_string(device),
               .seen = std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status),
               .next = memory ? "see `nibble plan` for what the run needs"
                              : "run `nibble doctor`; the driver's log (dmesg) may say more"});
}

std::vector<DeviceFacts> devices() {
  std::vector<DeviceFacts> list;
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver) {
    cudaGetLastError();
    return list;
  }
  check(status, "number of devices");
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, i), "properties of a device");
    DeviceFacts facts{.name = properties.name,
                      .architecture = 10 * properties.major + properties.minor,
                      .processors = properties.multiProcessorCount,
                      .memory = properties.totalGlobalMem};
    select(i);
    check(cudaMemGetInfo(&facts.free, &facts.memory), "free memory");
    list.push_back(facts);
  }
  if (count > 0) select(0);
  return list;
}

void select(int device) { check(cudaSetDevice(device), "choice of a device"); }

void* allocate(size_t bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes), "memory");
  check(cudaMemset(memory, 0, bytes), "clearing of memory");
  return memory;
}

void release(void* memory) { cudaFree(memory); }

void* allocate_pinned(size_t bytes) {
  void* memory = nullptr;
  check(cudaMallocHost(&memory, bytes), "pinned host memory");
  return memory;
}

void release_pinned(void* memory) { cudaFreeHost(memory); }

Queue::Queue() : native_(std::make_unique<Native>()) {
  check(cudaStreamCreateWithFlags(&native_->stream, cudaStreamNonBlocking), "a stream");
  check(cudaEventCreateWithFlags(&native_->reached, cudaEventDisableTiming), "an event");
}

Queue::~Queue() {
  cudaStreamSynchronize(native_->stream);
  cudaEventDestroy(native_->reached);
  cudaStreamDestroy(native_->stream);
}

void Queue::copy(void* to, const void* from, size_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, native_->stream), "a copy");
}

void Queue::fill_bytes(void* memory, int value, size_t bytes) {
  check(cudaMemsetAsync(memory, value, bytes, native_->stream), "filling of memory");
}

void Queue::after(Queue& other) {
  check(cudaEventRecord(other.native_->reached, other.native_->stream), "an event");
  check(cudaStreamWaitEvent(native_->stream, other.native_->reached, 0), "waiting for an event");
}

void Queue::wait() { check(cudaStreamSynchronize(native_->stream), "queued work"); }

}  // namespace nibble::cuda
