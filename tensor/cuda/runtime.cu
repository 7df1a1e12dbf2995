#include <string>

#include "tensor/cuda/check.cuh"
#include "tensor/cuda/mark.hpp"
#include "tensor/error.hpp"

namespace nibble::cuda {
namespace {

std::string hex(const cudaUUID_t& uuid) {
  constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (const char byte : uuid.bytes) {
    text += digits[static_cast<unsigned char>(byte) / 16];
    text += digits[static_cast<unsigned char>(byte) % 16];
  }
  return text;
}

}  // namespace

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

namespace {

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// By the calling thread; -1: none yet.
thread_local int selected = -1;

/// In every program that has kernels at all.
__global__ void nothing() {}

/// The selected device may be one that no kernel was compiled for.
void require_kernels() {
  cudaFuncAttributes attributes{};
  const cudaError_t status = cudaFuncGetAttributes(&attributes, nothing);
  if (status != cudaErrorNoKernelImageForDevice && status != cudaErrorInvalidDeviceFunction)
    return check(status, "its kernels");
  cudaGetLastError();
  int device = 0;
  cudaDeviceProp properties{};
  check(cudaGetDevice(&device), "the device");
  check(cudaGetDeviceProperties(&properties, device), "properties of a device");
  throw Error({.kind = ErrorKind::resource,
               .what = "this program has no kernels for this GPU",
               .where = "device " + std::to_string(device),
               .seen = std::string(properties.name) + ", compute capability " + std::to_string(properties.major) + "." +
                       std::to_string(properties.minor),
               .allowed = "those of CUDAARCHS when it was built: sm_90a, sm_100a, sm_120a unless that was set",
               .next = "choose another GPU, or build with CUDAARCHS for it"});
}

}  // namespace

std::vector<DeviceFacts> devices() {
  std::vector<DeviceFacts> list;
  int count = 0, driver = 0, runtime = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver) cudaGetLastError();
  if (status == cudaErrorNoDevice) return list;
  if (status == cudaErrorInsufficientDriver) {
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) return list;
    cudaRuntimeGetVersion(&runtime);
    throw Error({.kind = ErrorKind::resource,
                 .what = "the GPU's driver is too old for this program",
                 .seen = "a driver for CUDA " + version_text(driver),
                 .allowed = "CUDA " + version_text(runtime) + " or newer",
                 .next = "update the driver, or build with an older CUDA Toolkit (12.8 or newer)"});
  }
  check(status, "number of devices");
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, i), "properties of a device");
    DeviceFacts facts{.name = properties.name,
                      .identity = hex(properties.uuid),
                      .architecture = 10 * properties.major + properties.minor,
                      .processors = properties.multiProcessorCount,
                      .memory = properties.totalGlobalMem};
    // To ask any other would take some of its memory, of each rank on every GPU.
    if (i == selected) check(cudaMemGetInfo(&facts.free, &facts.memory), "free memory");
    list.push_back(facts);
  }
  return list;
}

size_t largest_block_memory() {
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device), "the device");
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "memory of a block");
  return static_cast<size_t>(bytes);
}

void select(int device) {
  check(cudaSetDevice(device), "choice of a device");
  selected = device;
}

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

bool CudaQueue::done() {
  const cudaError_t status = cudaStreamQuery(stream_);
  if (status != cudaErrorNotReady) check(status, "queued work");
  return status == cudaSuccess;
}

namespace {

struct RecordedEvent final : Mark {
  cudaEvent_t event = nullptr;

  RecordedEvent() { check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event"); }
  ~RecordedEvent() override { cudaEventDestroy(event); }
};

}  // namespace

std::unique_ptr<Mark> mark(Queue& queue) {
  auto recorded = std::make_unique<RecordedEvent>();
  check(cudaEventRecord(recorded->event, stream_of(queue)), "an event");
  return recorded;
}

void begin_after(Queue& queue, const Mark& mark) {
  check(cudaStreamWaitEvent(stream_of(queue), static_cast<const RecordedEvent&>(mark).event, 0),
        "waiting for an event");
}

std::unique_ptr<Queue> make_queue() {
  require_kernels();
  return std::make_unique<CudaQueue>();
}
void* handle(Queue& queue) { return stream_of(queue); }

namespace {

struct Event {
  cudaEvent_t event = nullptr;

  Event() { check(cudaEventCreate(&event), "an event"); }
  ~Event() { cudaEventDestroy(event); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
};

}  // namespace

double milliseconds(Queue& queue, const std::function<void()>& work) {
  const Event begin, end;
  check(cudaEventRecord(begin.event, stream_of(queue)), "an event");
  work();
  check(cudaEventRecord(end.event, stream_of(queue)), "an event");
  check(cudaEventSynchronize(end.event), "queued work");
  float time = 0;
  check(cudaEventElapsedTime(&time, begin.event, end.event), "the time between two events");
  return time;
}

}  // namespace nibble::cuda
