// What a device's stream keeps for its kernels: what the device is, numbers on their way from one to another, what a
// call brings along beside tensors, and working memory.
//
// A stream's work is done in the order in which it was queued, so that memory may be handed out again while earlier
// work still waits. Not for: what outlives a call (arenas).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "tensor/tensor.hpp"

namespace nibble {

class Stream;

namespace cuda {

/// Scalars that a stream makes before it takes the first one's place again.
inline constexpr size_t stream_numbers = 4096;
/// Words in its ring: several times the most that a call has, the entries of the largest Hadamard core.
inline constexpr size_t stream_words = 32768;

/// What a library keeps for a stream from call to call.
class LibraryState {
 public:
  LibraryState() = default;
  LibraryState(const LibraryState&) = delete;
  LibraryState& operator=(const LibraryState&) = delete;
  virtual ~LibraryState() = default;
};

class StreamMemory {
 public:
  explicit StreamMemory(int architecture);

  /// Of the stream's device: 90 for compute capability 9.0.
  int architecture() const { return architecture_; }
  /// A place for one more number (tensor/scalar.hpp).
  float* number();
  /// Of the calling kernel alone, for each purpose: until somebody asks again.
  enum Purpose { rotations, copies, sums, purposes };
  template <class T>
  T* working(Purpose purpose, size_t count) {
    return static_cast<T*>(working_bytes(purpose, count * sizeof(T)));
  }
  /// Bits that the host knows, in device memory, for the kernels that this call queues: copied before it returns.
  const uint32_t* words(Stream& stream, std::span<const uint32_t> words);
  /// Of its products (cublaslt.hpp).
  std::unique_ptr<LibraryState> products;
  /// Of attention, where a library computes it (model/cudnn).
  std::unique_ptr<LibraryState> attention;

 private:
  void* working_bytes(Purpose purpose, size_t bytes);

  const int architecture_;
  Buffer numbers_, words_, working_[purposes];
  size_t next_number_ = 0, next_word_ = 0;
};

}  // namespace cuda

}  // namespace nibble
