#include "tensor/cuda/stream_memory.hpp"

namespace nibble::cuda {

StreamMemory::StreamMemory(int architecture)
    : architecture_(architecture),
      numbers_(stream_numbers * sizeof(float), "numbers of a stream", Place::device),
      words_(stream_words * sizeof(uint32_t), "numbers of a stream", Place::device) {}

float* StreamMemory::number() { return static_cast<float*>(numbers_.data()) + next_number_++ % stream_numbers; }

void* StreamMemory::working_bytes(Purpose purpose, size_t bytes) {
  Buffer& working = working_[purpose];
  if (working.bytes() < bytes) {
    working = {};
    working = Buffer(bytes, "working memory of kernels", Place::device);
  }
  return working.data();
}

}  // namespace nibble::cuda
