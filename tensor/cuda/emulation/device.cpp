// One device in host memory. What is queued is done when somebody waits for it, so that host code that reads too early
// reads what was there before; and host code that touches the device's memory ends with a segmentation fault, as it
// would with a GPU.
#include "tensor/cuda/device.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "tensor/cuda/emulation/block.hpp"
#include "tensor/cuda/emulation/control.hpp"
#include "tensor/cuda/emulation/launch.hpp"
#include "tensor/error.hpp"
#include "tensor/stream.hpp"

namespace nibble::cuda {

namespace emulation {
namespace {

class EmulatedQueue final : public Queue {
 public:
  EmulatedQueue();
  ~EmulatedQueue() override;
  EmulatedQueue(const EmulatedQueue&) = delete;
  EmulatedQueue& operator=(const EmulatedQueue&) = delete;

  void copy(void* to, size_t to_stride, const void* from, size_t from_stride, size_t bytes, size_t rows) override;
  void after(Queue& other) override;
  void wait() override;
  void add(std::function<void()> work);

 private:
  void run_until(uint64_t number);

  std::deque<std::function<void()>> work_;
  uint64_t queued_ = 0, done_ = 0;
};

struct Device {
  std::recursive_mutex mutex;
  std::map<void*, size_t> memory;  ///< bytes by address, whole pages
  std::set<EmulatedQueue*> queues;
  size_t used = 0, limit = size_t{1} << 40, block_memory = usual_block_memory;
  bool present = true;
  int running = 0;  ///< depth of work that runs
};

Device& device() {
  static Device one;
  return one;
}

/// While it lives, the device's memory can be read and written.
class Running {
 public:
  Running() {
    if (device().running++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  ~Running() {
    if (--device().running == 0) protect(PROT_NONE);
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

 private:
  static void protect(int how) {
    for (const auto& [address, bytes] : device().memory) mprotect(address, bytes, how);
  }
};

EmulatedQueue::EmulatedQueue() {
  const std::lock_guard lock(device().mutex);
  device().queues.insert(this);
}

EmulatedQueue::~EmulatedQueue() {
  const std::lock_guard lock(device().mutex);
  try {
    wait();
  } catch (...) {  // nobody waited for it
  }
  device().queues.erase(this);
}

void EmulatedQueue::add(std::function<void()> work) {
  const std::lock_guard lock(device().mutex);
  work_.push_back(std::move(work));
  ++queued_;
}

void EmulatedQueue::run_until(uint64_t number) {
  while (done_ < number) {
    const std::function<void()> next = std::move(work_.front());
    work_.pop_front();
    ++done_;
    next();
  }
}

void EmulatedQueue::copy(void* to, size_t to_stride, const void* from, size_t from_stride, size_t bytes, size_t rows) {
  add([=] {
    for (size_t i = 0; i < rows; ++i)
      std::memmove(static_cast<std::byte*>(to) + i * to_stride, static_cast<const std::byte*>(from) + i * from_stride,
                   bytes);
  });
}

void EmulatedQueue::after(Queue& other) {
  auto& first = static_cast<EmulatedQueue&>(other);
  add([&first, number = first.queued_] { first.run_until(number); });
}

void EmulatedQueue::wait() {
  const std::lock_guard lock(device().mutex);
  const Running running;
  run_until(queued_);
}

}  // namespace

void set_present(bool present) { device().present = present; }
void limit_memory(size_t bytes) { device().limit = bytes; }
void limit_block_memory(size_t bytes) { device().block_memory = bytes; }
double& milliseconds_worked() {
  static double milliseconds = 0;
  return milliseconds;
}

void queue(Queue& queue, std::function<void()> work) { static_cast<EmulatedQueue&>(queue).add(std::move(work)); }

void queue(Queue& on, const dim3& blocks, const dim3& threads, size_t shared_bytes, std::function<void()> thread) {
  queue(on, [=] {
    const auto count = static_cast<int64_t>(blocks.x) * blocks.y * blocks.z;
    nibble::detail::FirstException exception;
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t i = 0; i < count; ++i)
      exception.guard([&] {
        block_size = threads;
        grid_size = blocks;
        const auto number = static_cast<unsigned>(i);
        Block::own().run({number % blocks.x, number / blocks.x % blocks.y, number / blocks.x / blocks.y}, threads,
                         shared_bytes, thread);
      });
    exception.rethrow();
  });
}

}  // namespace emulation

using emulation::device;

std::vector<DeviceFacts> devices() {
  if (!device().present) return {};
  return {{.name = "emulation in host memory",
           .architecture = 90,
           .processors = 1,
           .memory = device().limit,
           .free = device().limit - device().used}};
}

size_t largest_block_memory() { return device().block_memory; }

void select(int) {}

void* allocate(size_t bytes) {
  const std::lock_guard lock(device().mutex);
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t whole = (bytes + page - 1) / page * page;
  void* const memory = whole > device().limit - device().used
                           ? MAP_FAILED
                           : mmap(nullptr, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    throw Error({.kind = ErrorKind::resource,
                 .what = "the emulated GPU has no memory left",
                 .seen = std::to_string(bytes) + " bytes asked for",
                 .allowed = std::to_string(device().limit - device().used) + " bytes",
                 .next = "see `nibble plan` for what the run needs"});
  device().memory.emplace(memory, whole);
  device().used += whole;
  return memory;
}

void release(void* memory) {
  if (!memory) return;
  const std::lock_guard lock(device().mutex);
  for (Queue* const queue : device().queues) queue->wait();
  const auto found = device().memory.find(memory);
  device().used -= found->second;
  munmap(memory, found->second);
  device().memory.erase(found);
}

void* allocate_pinned(size_t bytes) { return std::malloc(bytes); }
void release_pinned(void* memory) { std::free(memory); }

std::unique_ptr<Queue> make_queue() { return std::make_unique<emulation::EmulatedQueue>(); }

double milliseconds(Queue& queue, const std::function<void()>& work) {
  queue.wait();
  const double begin = emulation::milliseconds_worked();
  work();
  queue.wait();
  return emulation::milliseconds_worked() - begin;
}

}  // namespace nibble::cuda
