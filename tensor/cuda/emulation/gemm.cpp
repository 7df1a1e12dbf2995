// Products are the host's, where cuBLASLt's header is not found and so no double of the library (cublaslt.cpp) is
// there.
#include "tensor/gemm.hpp"

#include "tensor/cuda/emulation/launch.hpp"
#include "tensor/cuda/kernels.hpp"

namespace nibble::cuda {
namespace {

Tensor on_host(Tensor x) {
  x.place = Place::host;
  return x;
}

}  // namespace

void gemm(Stream& stream, const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b,
          const Tensor& c, const Tensor& addend, const Scaling& scaling) {
  emulation::queue(stream.queue(), [=, &stream] {
    Scaling there = scaling;
    there.factor = scaling.factor.read();
    there.rows = on_host(there.rows);
    there.cols = on_host(there.cols);
    nibble::gemm(stream.host(), on_host(a), transpose_a, on_host(b), transpose_b, on_host(c), on_host(addend), there);
  });
}

std::string gemm_library(const Stream&, DType) { return "the host's products"; }
void choose_gemms(Stream&, const GemmRecord&, bool) {}
GemmRecord chosen_gemms(Stream&) { return {}; }

}  // namespace nibble::cuda
