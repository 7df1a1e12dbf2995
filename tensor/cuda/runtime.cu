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
  int selected = 0;
  if (count > 0) check(cudaGetDevice(&selected), "the selected device");
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
  if (count > 0) select(selected);
  return list;
}

size_t largest_block_memory() {
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device), "the device");
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "memory of a block");
  return static_cast<size_t>(bytes);
}

void select(int device) { check(cudaSetDevice(device), "choice of a device"); }

void* allocate(size_t bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes), "memory");
  // Queues do not wait for the stream that this goes to.
  check(cudaMemset(memory, 0, bytes), "clearing of memory");
  check(cudaStreamSynchronize(nullptr), "clearing of memory");
  return memory;
}

void release(void* memory) { cudaFree(memory); }

void* allocate_pinned(size_t bytes) {
  void* memory = nullptr;
  check(cudaMallocHost(&memory, bytes), "pinned host memory");
  return memory;
}

void release_pinned(void* memory) { cudaFreeHost(memory); }

CudaQueue::CudaQueue() {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
  check(cudaEventCreateWithFlags(&reached_, cudaEventDisableTiming), "an event");
}

CudaQueue::~CudaQueue() {
  cudaStreamSynchronize(stream_);
  cudaEventDestroy(reached_);
  cudaStreamDestroy(stream_);
}

void CudaQueue::copy(void* to, size_t to_stride, const void* from, size_t from_stride, size_t bytes, size_t rows) {
  if (bytes == 0 || rows == 0) return;
  if (rows == 1 || (to_stride == bytes && from_stride == bytes))
    check(cudaMemcpyAsync(to, from, bytes * rows, cudaMemcpyDefault, stream_), "a copy");
  else check(cudaMemcpy2DAsync(to, to_stride, from, from_stride, bytes, rows, cudaMemcpyDefault, stream_), "a copy");
}

void CudaQueue::after(Queue& other) {
  auto& first = static_cast<CudaQueue&>(other);
  check(cudaEventRecord(first.reached_, first.stream_), "an event");
  check(cudaStreamWaitEvent(stream_, first.reached_, 0), "waiting for an event");
}

void CudaQueue::wait() { check(cudaStreamSynchronize(stream_), "queued work"); }

std::unique_ptr<Queue> make_queue() { return std::make_unique<CudaQueue>(); }

}  // namespace nibble::cuda
