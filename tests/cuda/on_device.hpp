// Matrices on both sides, for tests of kernels.
#pragma once

#include <cstring>
#include <random>

#include "tensor/convert.hpp"
#include "tensor/stream.hpp"
#include "tensor/tensor.hpp"

namespace nibble::testing {

inline OwnedTensor on_device(Stream& device, const Tensor& host) {
  OwnedTensor there(host.dtype, host.rows, host.cols, "test", Place::device);
  copy(device, host, there);
  device.wait();
  return there;
}

inline OwnedTensor on_host(Stream& device, const Tensor& there) {
  OwnedTensor host(there.dtype, there.rows, there.cols, "test");
  copy(device, there, host);
  device.wait();
  return host;
}

/// Normal numbers; of u8 and i8, any.
inline OwnedTensor drawn(DType type, int64_t rows, int64_t cols, unsigned seed) {
  OwnedTensor drawn(type, rows, cols, "test");
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < drawn.view().size(); ++i) {
    if (type == DType::bf16) drawn.view().as<bf16>()[i] = bf16(normal(generator));
    else if (type == DType::u8 || type == DType::i8)
      static_cast<uint8_t*>(drawn.view().data)[i] = static_cast<uint8_t>(generator());
    else drawn.view().as<float>()[i] = normal(generator);
  }
  return drawn;
}

/// One matrix on both sides, with `padding` columns around it that must stay as they are; drawn.
struct Twin {
  OwnedTensor whole, whole_there;
  Tensor here, there;

  Twin(Stream& device, DType type, int64_t rows, int64_t cols, int64_t padding, unsigned seed)
      : whole(drawn(type, rows, cols + 2 * padding, seed)),
        whole_there(on_device(device, whole)),
        here(whole.view().slice_cols(padding, cols)),
        there(whole_there.view().slice_cols(padding, cols)) {}
};

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.dtype == b.dtype && a.size() == b.size() && std::memcmp(a.data, b.data, a.bytes()) == 0;
}

inline bool same_bits(Stream& device, const Twin& twin) {
  return same_bits(on_host(device, twin.whole_there), twin.whole);
}

}  // namespace nibble::testing
