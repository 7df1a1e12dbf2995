// Where the time goes: each kernel call with its cost, against what the machine could do.
//
// A kernel opens a KernelTimer with the tensors it must move (each operand once in, each result once out; what is
// updated stands there twice) and the operations it must do. Without a profile attached to the stream that costs one
// comparison. Not for: kernels within a task; they count in the kernel that made the tasks.
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>

#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// Sums over all calls of one kernel (and shape, where its name says one).
struct KernelTotal {
  int64_t calls = 0;
  double seconds = 0;
  double bytes = 0;
  double operations = 0;  ///< multiplications and additions
};

class Profile {
 public:
  void add(std::string_view kernel, double seconds, double bytes, double operations) {
    auto found = totals_.find(kernel);
    if (found == totals_.end()) found = totals_.emplace(kernel, KernelTotal{}).first;
    KernelTotal& total = found->second;
    ++total.calls;
    total.seconds += seconds;
    total.bytes += bytes;
    total.operations += operations;
  }
  const std::map<std::string, KernelTotal, std::less<>>& totals() const { return totals_; }
  void clear() { totals_.clear(); }

 private:
  std::map<std::string, KernelTotal, std::less<>> totals_;
};

/// Times one kernel call while it lives, on a device until it is done; kernels that it calls count in it. `kernel` is
/// only read if the stream has a profile.
class KernelTimer {
 public:
  KernelTimer(Stream& stream, std::string_view kernel, std::initializer_list<Tensor> moved, double operations = 0)
      : KernelTimer(stream, kernel, bytes_of(moved), operations) {}
  KernelTimer(Stream& stream, std::string_view kernel, double bytes, double operations = 0)
      : stream_(stream), profile_(stream.profile()), kernel_(kernel), bytes_(bytes), operations_(operations) {
    if (!profile_) return;
    stream_.attach(nullptr);
    begin_ = Clock::now();
  }
  ~KernelTimer() noexcept(false) {  // what the device's kernel threw
    if (!profile_) return;
    if (std::uncaught_exceptions() == 0) stream_.wait();
    profile_->add(kernel_, std::chrono::duration<double>(Clock::now() - begin_).count(), bytes_, operations_);
    stream_.attach(profile_);
  }
  KernelTimer(const KernelTimer&) = delete;
  KernelTimer& operator=(const KernelTimer&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  static double bytes_of(std::initializer_list<Tensor> tensors) {
    double bytes = 0;
    for (const Tensor& tensor : tensors) bytes += static_cast<double>(tensor.bytes());
    return bytes;
  }
  Stream& stream_;
  Profile* profile_;
  std::string_view kernel_;
  double bytes_, operations_;
  Clock::time_point begin_;
};

}  // namespace nibble
