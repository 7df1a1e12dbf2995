#include "tensor/cuda/stream_memory.hpp"

#include <algorithm>
#include <cassert>

#include "tensor/cuda/kernel.hpp"
#include "tensor/cuda/kernels.hpp"
#include "tensor/stream.hpp"

namespace nibble::cuda {
namespace {

/// Words in the ring: several times the most that a call has, the entries of the largest Hadamard core.
constexpr size_t ring_words = 32768;
/// A kernel's parameters have room for 4 KB.
constexpr size_t words_at_once = 960;

struct Words {
  uint32_t values[words_at_once];
};

__global__ void put_words(Words words, uint32_t count, uint32_t* to) {
  for (uint32_t i = threadIdx.x; i < count; i += blockDim.x) to[i] = words.values[i];
}

__global__ void multiply(Scalar a, Scalar b, float* to) { *to = a.read() * b.read(); }

}  // namespace

StreamMemory::StreamMemory(int architecture)
    : architecture_(architecture),
      numbers_(stream_numbers * sizeof(float), "numbers of a stream", Place::device),
      words_(ring_words * sizeof(uint32_t), "numbers of a stream", Place::device) {}

float* StreamMemory::number() { return static_cast<float*>(numbers_.data()) + next_number_++ % stream_numbers; }

void* StreamMemory::working_bytes(Purpose purpose, size_t bytes) {
  Buffer& working = working_[purpose];
  if (working.bytes() < bytes) {
    working = {};
    working = Buffer(bytes, "working memory of kernels", Place::device);
  }
  return working.data();
}

const uint32_t* StreamMemory::words(Stream& stream, std::span<const uint32_t> words) {
  assert(words.size() <= ring_words);
  if (next_word_ + words.size() > ring_words) next_word_ = 0;
  uint32_t* const to = static_cast<uint32_t*>(words_.data()) + next_word_;
  next_word_ += words.size();
  for (size_t first = 0; first < words.size(); first += words_at_once) {
    const size_t count = std::min(words_at_once, words.size() - first);
    Words some;
    std::copy_n(words.data() + first, count, some.values);
    launch(stream.queue(), {1}, {128}, 0, put_words, some, static_cast<uint32_t>(count), to + first);
  }
  return to;
}

Scalar product_of(Stream& stream, const Scalar& a, const Scalar& b) {
  float* const to = stream.memory().number();
  launch(stream.queue(), {1}, {1}, 0, multiply, a, b, to);
  return Scalar::at(to);
}

std::unique_ptr<StreamMemory> make_stream_memory(int architecture) {
  return std::make_unique<StreamMemory>(architecture);
}

}  // namespace nibble::cuda
