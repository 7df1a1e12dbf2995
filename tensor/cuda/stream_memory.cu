#include "tensor/cuda/stream_memory.hpp"

#include <algorithm>
#include <cassert>

#include "tensor/cuda/kernel.hpp"
#include "tensor/cuda/kernels.hpp"
#include "tensor/stream.hpp"

namespace nibble::cuda {
namespace {

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

const uint32_t* StreamMemory::words(Stream& stream, std::span<const uint32_t> words) {
  assert(words.size() <= stream_words);
  if (next_word_ + words.size() > stream_words) next_word_ = 0;
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

}  // namespace nibble::cuda
