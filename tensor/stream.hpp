// Where kernels run: a stream is an ordered queue of kernels on one device.
//
// Every kernel takes a stream first. A CPU stream runs a kernel at once, on the process's team of OpenMP threads and
// with the widest instruction set of the machine; the call returns when the kernel has finished. A device's stream
// queues it; tensors of such a call are the device's memory, spans as headers say; what comes back was waited for.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>

#include "tensor/cuda/device.hpp"
#include "tensor/place.hpp"

namespace nibble {

enum class Isa { avx2, avx512 };
const char* name(Isa isa);

class GemmCache;
class Profile;
class Staging;
namespace cuda {
class StreamMemory;
}

class Stream {
 public:
  /// `threads` 0: all cores the process may use. Sets the size of the OpenMP team; entered by one thread only.
  /// The environment variable NIBBLE_ISA (avx2, avx512) lowers the instruction set of all kernels of our own; the
  /// packed GEMM needs avx512 (gemm.hpp).
  /// Throws Error{resource} on a processor without AVX2 and Error{configuration} for an unknown NIBBLE_ISA.
  explicit Stream(int threads = 0);
  /// Of a device; the threads are those of host code beside it. Throws Error{resource} where there is none.
  Stream(int threads, Place place, int device = 0);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  int threads() const { return threads_; }
  Isa isa() const { return isa_; }
  Place place() const { return queue_ ? Place::device : Place::host; }
  bool on_device() const { return queue_ != nullptr; }
  /// Of a device's stream.
  cuda::Queue& queue() const { return *queue_; }
  /// For kernels on host memory, with the same threads.
  Stream& host() { return host_ ? *host_ : *this; }
  /// Of a device's stream: how arrays get to its kernels.
  Staging& staging() const { return *staging_; }
  /// Of a device's stream: what its kernels hand to each other.
  cuda::StreamMemory& memory() const { return *memory_; }
  /// Until all kernels are done.
  void wait() const {
    if (queue_) queue_->wait();
  }
  GemmCache& gemms() { return *gemms_; }
  /// Where kernels record their time (profile.hpp); null: nowhere.
  Profile* profile() const { return profile_; }
  void attach(Profile* profile) { profile_ = profile; }

 private:
  int threads_;
  Isa isa_;
  std::unique_ptr<cuda::Queue> queue_;
  std::unique_ptr<Stream> host_;  ///< of a device's stream
  std::unique_ptr<GemmCache> gemms_;
  Profile* profile_ = nullptr;
  std::unique_ptr<Staging> staging_;
  std::unique_ptr<cuda::StreamMemory> memory_;
};

namespace detail {
// `flatten` inlines the body into a function compiled for the wider instruction set, so that one source serves both.
template <class Body>
[[gnu::flatten]] void run_baseline(Body& body, int64_t begin, int64_t end) {
  body(begin, end);
}
#if defined(__x86_64__)
template <class Body>
[[gnu::flatten, gnu::target("arch=x86-64-v4,prefer-vector-width=512")]] void run_avx512(Body& body, int64_t begin,
                                                                                        int64_t end) {
  body(begin, end);
}
#endif
template <class Body>
void run(Isa isa, Body& body, int64_t begin, int64_t end) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) return run_avx512(body, begin, end);
#endif
  run_baseline(body, begin, end);
}
}  // namespace detail

namespace detail {
/// Carries the first exception of a parallel region to the thread that entered it; later work is skipped.
class FirstException {
 public:
  template <class Work>
  void guard(Work&& work) noexcept {
    if (failed_.load(std::memory_order_relaxed)) return;
    try {
      work();
    } catch (...) {
      if (!failed_.exchange(true)) first_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (first_) std::rethrow_exception(first_);
  }

 private:
  std::exception_ptr first_;
  std::atomic<bool> failed_ = false;
};
}  // namespace detail

/// Runs body(begin, end) over [0, n), each thread on one contiguous range whose ends are multiples of `grain`.
/// The body must give the same results however the range is cut. Inside a task it runs on the calling thread alone.
/// Throws what the body throws.
template <class Body>
void parallel_for(Stream& stream, int64_t n, int64_t grain, Body&& body) {
  const int64_t grains = (n + grain - 1) / grain;
  const int team = omp_in_parallel() ? 1 : static_cast<int>(std::min<int64_t>(stream.threads(), grains));
  const Isa isa = stream.isa();
  if (team <= 1) {
    if (n > 0) detail::run(isa, body, 0, n);
    return;
  }
  detail::FirstException exception;
#pragma omp parallel for num_threads(team) schedule(static, 1)
  for (int thread = 0; thread < team; ++thread) {
    const int64_t begin = grains * thread / team * grain, end = std::min(grains * (thread + 1) / team * grain, n);
    if (begin < end) exception.guard([&] { detail::run(isa, body, begin, end); });
  }
  exception.rethrow();
}

/// Runs body(task, thread) for every task in [0, n), each by whichever thread is free: for tasks of unequal cost. Each
/// thread's tasks ascend, so a task may wait for a lower one.
/// `thread` < stream.threads() tells which scratch memory the task may use. Throws what a body throws.
template <class Body>
void parallel_tasks(Stream& stream, int64_t n, Body&& body) {
  const Isa isa = stream.isa();
  detail::FirstException exception;
#pragma omp parallel for num_threads(stream.threads()) schedule(monotonic : dynamic, 1)
  for (int64_t task = 0; task < n; ++task)
    exception.guard([&] { detail::run(isa, body, task, int64_t{omp_get_thread_num()}); });
  exception.rethrow();
}

}  // namespace nibble
