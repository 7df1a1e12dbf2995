// Arrays that host code hands to kernels of a device with a call, and small results on their way back: tables of
// pointers, factors of rows, sums.
//
//   const float* factors = stream.staging().send(std::span<const float>(on_host));
//   launch(stream.queue(), ..., kernel, factors, ...);
//
// Pinned host memory and as much of the device's, in two halves. Nobody waits until a half is full; then the other one
// is begun anew, behind a wait for all that was queued. Not for: what outlives a call, nor for whole matrices.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>

#include "tensor/cuda/device.hpp"
#include "tensor/tensor.hpp"

namespace nibble {

/// So many elements in pinned host memory, and as many in the device's; neither is set.
template <class T>
struct Staged {
  T* host;
  T* device;
};

/// Of one queue, and for the thread that fills it.
class Staging {
 public:
  explicit Staging(cuda::Queue& queue) : queue_(queue) {}

  /// It is the caller's until others have taken `least_half` bytes, and through the next call whatever that takes: for
  /// what is queued before, and on the host for what waits before. Throws Error{resource} where there is no memory.
  template <class T>
  Staged<T> take(size_t count) {
    static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= alignment);
    const Staged<std::byte> bytes = take_bytes(count * sizeof(T));
    return {reinterpret_cast<T*>(bytes.host), reinterpret_cast<T*>(bytes.device)};
  }

  /// A copy in the device's memory, for kernels that are queued as long as take() says.
  template <class T>
  const T* send(std::span<const T> values) {
    const Staged<T> staged = take<T>(values.size());
    std::copy(values.begin(), values.end(), staged.host);
    queue_.copy(staged.device, staged.host, values.size_bytes());
    return staged.device;
  }

  static constexpr size_t least_half = size_t{1} << 20;

 private:
  struct ReleasePinned {
    void operator()(std::byte* memory) const { cuda::release_pinned(memory); }
  };
  struct Half {
    std::unique_ptr<std::byte, ReleasePinned> host;
    Buffer device;
    size_t used = 0;
  };

  Staged<std::byte> take_bytes(size_t bytes);

  cuda::Queue& queue_;
  Half halves_[2];
  int current_ = 0;
};

}  // namespace nibble
