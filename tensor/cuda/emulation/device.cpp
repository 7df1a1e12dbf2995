// Devices in host memory, which they share. What is queued is done when somebody waits for it, so that host code that
// reads too early reads what was there before; and host code that touches a device's memory ends with a segmentation
// fault, as it would with a GPU.
#include "tensor/cuda/device.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cassert>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include "tensor/cuda/emulation/block.hpp"
#include "tensor/cuda/emulation/control.hpp"
#include "tensor/cuda/emulation/launch.hpp"
#include "tensor/cuda/emulation/order.hpp"
#include "tensor/cuda/emulation/watch.hpp"
#include "tensor/cuda/graph.hpp"
#include "tensor/cuda/mark.hpp"
#include "tensor/error.hpp"
#include "tensor/stream.hpp"

namespace nibble::cuda {

namespace emulation {
namespace {

class EmulatedQueue final : public Queue {
 public:
  /// Does it; false if it cannot be done yet.
  using Work = std::function<bool()>;

  EmulatedQueue();
  ~EmulatedQueue() override;
  EmulatedQueue(const EmulatedQueue&) = delete;
  EmulatedQueue& operator=(const EmulatedQueue&) = delete;

  void copy(void* to, size_t to_stride, const void* from, size_t from_stride, size_t bytes, size_t rows) override;
  void after(Queue& other) override;
  void wait() override;
  bool done() override;
  void add(Work work);
  /// What `work` adds, instead of adding it.
  std::vector<Work> record(const std::function<void()>& work);
  /// What others hold of it: null when it has ended, with all its work done.
  using Self = std::shared_ptr<EmulatedQueue*>;
  const Self& self() const { return self_; }
  uint64_t queued() const;
  /// Behind so much of the other one's work.
  void begin_after(const Self& other, uint64_t number) {
    add([other, number] { return !*other || (*other)->run_until(number); });
  }
  /// False where some of it cannot be done yet.
  bool run_all() { return run_until(queued_); }
  int device() const { return device_; }

  double milliseconds = 0;  ///< that its work took
  uint64_t graphs = 0;      ///< that were queued

 private:
  bool run_until(uint64_t number);

  const int device_;
  const Self self_ = std::make_shared<EmulatedQueue*>(this);
  std::deque<Work> work_;
  std::vector<Work>* recorded_ = nullptr;  ///< while a graph is
  uint64_t queued_ = 0, done_ = 0;
};

struct Memory {
  size_t bytes;  ///< whole pages
  size_t asked;  ///< bytes of them that somebody asked for
  int device;
};

struct Devices {
  std::recursive_mutex mutex;
  std::map<void*, Memory> memory;  ///< by address
  std::set<EmulatedQueue*> queues;
  size_t used = 0, limit = size_t{1} << 40, block_memory = usual_block_memory;
  int count = 1, architecture = usual_architecture;
  int running = 0;  ///< depth of work that runs
  uint64_t order = 2;

  Devices() {
    if (const char* const seed = std::getenv("NIBBLE_EMULATION_ORDER")) order = std::strtoull(seed, nullptr, 10);
  }
};

Devices& all_devices() {
  static Devices all;
  return all;
}

thread_local int selected = 0;
thread_local bool recording = false;

/// As the CUDA runtime does for the thread that records.
void require_no_recording(const char* what) {
  if (recording)
    throw Error({.kind = ErrorKind::resource,
                 .what = std::string("the emulated GPU records a graph, in which there cannot be ") + what});
}

/// Between two attempts at work that depends on others.
constexpr std::chrono::microseconds attempt_time(50);

size_t page_bytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

/// While it lives, the devices' memory can be read and written.
class Running {
 public:
  Running() {
    if (all_devices().running++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  ~Running() {
    if (--all_devices().running == 0) protect(PROT_NONE);
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

 private:
  static void protect(int how) {
    for (const auto& [address, memory] : all_devices().memory) mprotect(address, memory.bytes, how);
  }
};

EmulatedQueue::EmulatedQueue() : device_(selected) {
  const std::lock_guard lock(all_devices().mutex);
  all_devices().queues.insert(this);
}

EmulatedQueue::~EmulatedQueue() {
  try {
    wait();
  } catch (...) {  // nobody waited for it
  }
  const std::lock_guard lock(all_devices().mutex);
  *self_ = nullptr;
  all_devices().queues.erase(this);
}

std::vector<EmulatedQueue::Work> EmulatedQueue::record(const std::function<void()>& work) {
  require_no_recording("another one");
  struct While {
    EmulatedQueue& queue;
    ~While() {
      queue.recorded_ = nullptr;
      recording = false;
    }
  };
  std::vector<Work> recorded;
  const While is_recording{*this};
  recorded_ = &recorded;
  recording = true;
  work();
  return recorded;
}

void EmulatedQueue::add(Work work) {
  const std::lock_guard lock(all_devices().mutex);
  if (recorded_) return recorded_->push_back(std::move(work));
  require_no_recording("work of another queue");
  work_.push_back(std::move(work));
  ++queued_;
}

uint64_t EmulatedQueue::queued() const {
  const std::lock_guard lock(all_devices().mutex);
  return queued_;
}

bool EmulatedQueue::run_until(uint64_t number) {
  while (done_ < number) {
    Work next = std::move(work_.front());
    work_.pop_front();
    ++done_;
    try {
      if (next()) continue;
    } catch (...) {  // what is behind it may be about host memory that goes when this is caught
      work_.clear();
      done_ = queued_;
      throw;
    }
    work_.push_front(std::move(next));
    --done_;
    return false;
  }
  return true;
}

void EmulatedQueue::copy(void* to, size_t to_stride, const void* from, size_t from_stride, size_t bytes, size_t rows) {
  if (recording && (device_of(to, bytes) < 0 || device_of(from, bytes) < 0))
    require_no_recording("a copy from or to host memory");
  add([=] {
    for (size_t i = 0; i < rows; ++i)
      std::memmove(static_cast<std::byte*>(to) + i * to_stride, static_cast<const std::byte*>(from) + i * from_stride,
                   bytes);
    return true;
  });
}

void EmulatedQueue::after(Queue& other) {
  auto& first = static_cast<EmulatedQueue&>(other);
  require_no_recording("another queue");
  const std::lock_guard lock(all_devices().mutex);
  begin_after(first.self(), first.queued_);
}

void EmulatedQueue::wait() {
  while (!done()) std::this_thread::sleep_for(attempt_time);
}

bool EmulatedQueue::done() {
  require_no_recording("a wait");
  const std::lock_guard lock(all_devices().mutex);
  if (done_ == queued_) return true;
  const Running running;
  return run_all();
}

/// False where work of the memory's device cannot be done yet.
bool try_to_release(void* memory) {
  Devices& all = all_devices();
  const std::lock_guard lock(all.mutex);
  const auto found = all.memory.find(memory);
  const auto [bytes, asked, device] = found->second;
  {
    const Running running;
    for (EmulatedQueue* const queue : all.queues)
      if (queue->device() == device && !queue->run_all()) return false;
  }
  all.used -= bytes;
  munmap(memory, bytes + page_bytes());
  all.memory.erase(found);
  return true;
}

}  // namespace

void set_devices(int count) { all_devices().count = count; }
void set_architecture(int architecture) { all_devices().architecture = architecture; }
int architecture() { return all_devices().architecture; }
void limit_memory(size_t bytes) { all_devices().limit = bytes; }
void set_order(uint64_t seed) { all_devices().order = seed; }
uint64_t order_seed() { return all_devices().order; }
void limit_block_memory(size_t bytes) { all_devices().block_memory = bytes; }
uint64_t graphs_queued(const Queue& queue) { return static_cast<const EmulatedQueue&>(queue).graphs; }
double& milliseconds_worked(Queue& queue) { return static_cast<EmulatedQueue&>(queue).milliseconds; }

int device_of(const void* memory, size_t bytes) {
  const std::lock_guard lock(all_devices().mutex);
  const auto* const begin = static_cast<const std::byte*>(memory);
  for (const auto& [address, there] : all_devices().memory) {
    const auto* const first = static_cast<const std::byte*>(address);
    if (begin >= first && begin + bytes <= first + there.bytes) return there.device;
  }
  return -1;
}

std::span<const std::byte> allocation_at(const void* address) {
  const std::lock_guard lock(all_devices().mutex);
  const auto next = all_devices().memory.upper_bound(const_cast<void*>(address));
  if (next == all_devices().memory.begin()) return {};
  const auto& [begin, there] = *std::prev(next);
  const auto* const first = static_cast<const std::byte*>(begin);
  return static_cast<const std::byte*>(address) < first + there.asked ? std::span(first, there.asked)
                                                                      : std::span<const std::byte>();
}

int selected_device() { return selected; }
int device_of(const Queue& queue) { return static_cast<const EmulatedQueue&>(queue).device(); }

void queue_attempts(Queue& queue, std::function<bool()> attempt) {
  static_cast<EmulatedQueue&>(queue).add(std::move(attempt));
}

void queue(Queue& queue, std::function<void()> work) {
  queue_attempts(queue, [work = std::move(work)] {
    work();
    return true;
  });
}

void queue(Queue& on, const void* kernel, const dim3& blocks, const dim3& threads, size_t shared_bytes,
           std::function<void()> thread) {
  queue(on, [=] {
    const auto count = static_cast<int64_t>(blocks.x) * blocks.y * blocks.z;
    const Order order(order_seed(), 0, static_cast<size_t>(count));
    nibble::detail::FirstException exception;
    if (watched()) watch_grid(kernel);
#pragma omp parallel for schedule(dynamic, 1) if (!watched())
    for (int64_t i = 0; i < count; ++i)
      exception.guard([&] {
        block_size = threads;
        grid_size = blocks;
        const auto number = static_cast<unsigned>(order[static_cast<size_t>(i)]);
        Block::own().run({number % blocks.x, number / blocks.x % blocks.y, number / blocks.x / blocks.y}, threads,
                         shared_bytes, thread);
      });
    exception.rethrow();
    if (watched()) judge_grid();
  });
}

}  // namespace emulation

using emulation::all_devices;

std::vector<DeviceFacts> devices() {
  std::vector<DeviceFacts> list;
  for (int device = 0; device < all_devices().count; ++device)
    list.push_back({.name = "emulation in host memory",
                    .identity = std::to_string(device) + " of process " + std::to_string(getpid()),
                    .architecture = all_devices().architecture,
                    .processors = 1,
                    .memory = all_devices().limit,
                    .free = all_devices().limit - all_devices().used});
  return list;
}

size_t largest_block_memory() { return all_devices().block_memory; }

void select(int device) {
  assert(device < all_devices().count);
  emulation::selected = device;
}

void* allocate(size_t bytes) {
  emulation::require_no_recording("an allocation");
  const std::lock_guard lock(all_devices().mutex);
  const size_t page = emulation::page_bytes(), whole = (bytes + page - 1) / page * page;
  // A page that nobody may touch lies behind: the next allocation would begin where this one ends.
  void* const memory = whole > all_devices().limit - all_devices().used
                           ? MAP_FAILED
                           : mmap(nullptr, whole + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    throw Error({.kind = ErrorKind::resource,
                 .what = "the emulated GPU has no memory left",
                 .seen = std::to_string(bytes) + " bytes asked for",
                 .allowed = std::to_string(all_devices().limit - all_devices().used) + " bytes",
                 .next = "see `nibble plan` for what the run needs"});
  all_devices().memory.emplace(memory, emulation::Memory{whole, bytes, emulation::selected});
  all_devices().used += whole;
  return memory;
}

void release(void* memory) {
  while (memory && !emulation::try_to_release(memory)) std::this_thread::sleep_for(emulation::attempt_time);
}

void* allocate_pinned(size_t bytes) { return std::malloc(bytes); }
void release_pinned(void* memory) { std::free(memory); }

namespace {

struct QueuedNumber final : Mark {
  explicit QueuedNumber(const emulation::EmulatedQueue& of) : queue(of.self()), number(of.queued()) {}

  emulation::EmulatedQueue::Self queue;
  uint64_t number;
};

}  // namespace

std::unique_ptr<Mark> mark(Queue& queue) {
  emulation::require_no_recording("a mark");
  return std::make_unique<QueuedNumber>(static_cast<const emulation::EmulatedQueue&>(queue));
}

void begin_after(Queue& queue, const Mark& mark) {
  const auto& marked = static_cast<const QueuedNumber&>(mark);
  static_cast<emulation::EmulatedQueue&>(queue).begin_after(marked.queue, marked.number);
}

namespace {

class EmulatedGraph final : public Graph {
 public:
  explicit EmulatedGraph(Queue& queue) : queue_(static_cast<emulation::EmulatedQueue&>(queue)) {}

  void run(const std::function<void()>& work) override {
    for (auto& each : queue_.record(work)) queue_.add(std::move(each));
    ++queue_.graphs;
  }

 private:
  emulation::EmulatedQueue& queue_;
};

}  // namespace

std::unique_ptr<Graph> make_graph(Queue& queue) { return std::make_unique<EmulatedGraph>(queue); }

std::unique_ptr<Queue> make_queue() { return std::make_unique<emulation::EmulatedQueue>(); }
void* handle(Queue& queue) { return &queue; }

double milliseconds(Queue& queue, const std::function<void()>& work) {
  queue.wait();
  const double begin = emulation::milliseconds_worked(queue);
  work();
  queue.wait();
  return emulation::milliseconds_worked(queue) - begin;
}

}  // namespace nibble::cuda
