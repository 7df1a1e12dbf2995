// The one door to cuBLASLt: plans of products, made once and kept, and the choice of their algorithms.
//
// No algorithm reduces in place or in the result's type, so that the same algorithm gives the same bits. Which one
// multiplies is recorded; a run that goes on hands the record back. Not for: which part of gemm() is the library's
// (library_product.hpp).
#pragma once

#include <memory>
#include <string>

#include "tensor/cuda/device.hpp"
#include "tensor/cuda/library_product.hpp"
#include "tensor/cuda/stream_memory.hpp"
#include "tensor/gemm.hpp"

namespace nibble::cuda {

/// Of a queue of the selected device.
class CublasLt final : public LibraryState {
 public:
  /// The architecture is the device's. Throws Error{resource} when the library does not begin.
  CublasLt(Queue& queue, int architecture);
  ~CublasLt() override;
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  /// Device memory; c is d where the product has no addend.
  struct Addresses {
    const void *a, *b, *c;
    void* d;
    /// Of blocks, in tiles (tile_scales()), or vectors of rows and columns.
    const void *a_scales = nullptr, *b_scales = nullptr;
  };
  /// D = (factor A B) + C. False, and nothing is done, where it should scale rows and columns and cannot: then the
  /// run's record says so, and a run that goes on does not ask. Throws Error{resource} that names the product when the
  /// library fails or knows no algorithm, Error{checkpoint} when it refuses the one that was recorded.
  bool multiply(const LibraryProduct& product, const Scalar& factor, const Addresses& addresses);

  /// As choose_gemms() and chosen_gemms().
  void choose(GemmRecord known, bool tune);
  const GemmRecord& chosen() const;

  /// "cuBLASLt 13.1.0"
  static std::string version();

 private:
  struct Plans;
  std::unique_ptr<Plans> plans_;
};

/// Working memory of the library for each queue: what NVIDIA recommends for Hopper (cuBLAS manual, cublasSetWorkspace).
inline constexpr size_t library_workspace_bytes = size_t{32} << 20;
/// With the zero that products of its factors begin at.
inline constexpr size_t library_bytes = library_workspace_bytes + sizeof(float);

}  // namespace nibble::cuda
