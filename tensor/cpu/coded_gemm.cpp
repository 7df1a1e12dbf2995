#include "tensor/coded_gemm.hpp"

#include <fmt/format.h>

#include "tensor/cuda/kernels.hpp"
#include "tensor/cuda/stream_memory.hpp"
#include "tensor/error.hpp"
#include "tensor/profile.hpp"

namespace nibble {
namespace {

constexpr int hopper = 90, blackwell = 100;

/// What cuBLASLt multiplies (its manual, cublasLtMatmul, tables of FP8 and FP4 kernels and of scaling modes). MXFP4 has
/// no kernels there: its codes are multiplied as those of MXFP8.
struct TableRow {
  CodePair pair;
  int first_architecture;
};
constexpr TableRow table[] = {
    {{CodeFormat::e4m3, CodeFormat::e4m3, BlockScales::none}, hopper},
    {{CodeFormat::e4m3, CodeFormat::e5m2, BlockScales::none}, hopper},
    {{CodeFormat::e5m2, CodeFormat::e4m3, BlockScales::none}, hopper},
    {{CodeFormat::e4m3, CodeFormat::e4m3, BlockScales::e8m0}, blackwell},
    {{CodeFormat::e4m3, CodeFormat::e5m2, BlockScales::e8m0}, blackwell},
    {{CodeFormat::e5m2, CodeFormat::e4m3, BlockScales::e8m0}, blackwell},
    {{CodeFormat::e2m1, CodeFormat::e2m1, BlockScales::e4m3}, blackwell},
};

[[noreturn]] void refuse_the_host() {
  throw Error({.kind = ErrorKind::internal, .what = "the host was asked for a product of codes"});
}

const char* name(CodeFormat format) {
  static constexpr const char* names[] = {"e4m3", "e5m2", "e2m1"};
  return names[static_cast<size_t>(format)];
}

void check(const Stream& stream, const CodeMatrix& a, const CodeMatrix& b, const Tensor& c, const Tensor& addend,
           const Scaling& scaling) {
  const int64_t m = a.rows(), n = b.rows(), k = a.depth();
  const CodePair pair{a.format, b.format, a.block_scales};
  const auto operand_fits = [&](const CodeMatrix& x) {
    const int64_t blocks = k / block_length(x.block_scales);
    return x.codes.dtype == DType::u8 && x.depth() == k && x.block_scales == pair.scales &&
           (x.block_scales == BlockScales::none || x.scales.size() == scale_tile_bytes(x.rows(), blocks));
  };
  const auto scales = [](const Tensor& x, int64_t count) {
    return !x || (x.dtype == DType::f32 && x.rows == 1 && x.cols == count);
  };
  const bool result_fits = (c.dtype == DType::f32 || c.dtype == DType::bf16) && c.rows == m && c.cols == n;
  const bool addend_fits = !addend || (addend.dtype == DType::f32 && addend.rows == m && addend.cols == n &&
                                       (addend.data != c.data || c.dtype == DType::f32));
  if (operand_fits(a) && operand_fits(b) && result_fits && addend_fits && scales(scaling.rows, m) &&
      scales(scaling.cols, n) && !scaling.has_offsets() && multiplies_codes(stream, pair, n, k))
    return;
  throw Error({.kind = ErrorKind::internal,
               .what = "operands of a product of codes do not fit",
               .seen = fmt::format("a {} [{}, {}], b {} [{}, {}], c {} [{}, {}]", name(a.format), m, k, name(b.format),
                                   n, b.depth(), name(c.dtype), c.rows, c.cols),
               .allowed = "what multiplies_codes() says"});
}

}  // namespace

bool tensor_cores_multiply(int architecture, const CodePair& pair) {
  for (const auto& [known, first_architecture] : table)
    if (known.a == pair.a && known.b == pair.b && known.scales == pair.scales)
      return architecture >= first_architecture;
  return false;
}

bool multiplies_codes(const Stream& stream, const CodePair& pair, int64_t cols, int64_t depth) {
  const int64_t unit = coded_multiple(pair);
  const bool linked = cuda::coded_gemm || !cuda::gemm;  // a device that is imagined has all products
  return stream.on_device() && linked && cols % unit == 0 && depth % unit == 0 && depth > 0 &&
         tensor_cores_multiply(stream.memory().architecture(), pair) && !widens_codes(stream);
}

void coded_gemm(Stream& stream, const CodeMatrix& a, const CodeMatrix& b, const Tensor& c, const Tensor& addend,
                const Scaling& scaling) {
  const std::string description = stream.profile() ? fmt::format("gemm {}x{}x{} NT {}*{}>{}", c.rows, c.cols, a.depth(),
                                                                 name(a.format), name(b.format), name(c.dtype))
                                                   : std::string();
  const KernelTimer timer(stream, description, {a.codes, a.scales, b.codes, b.scales, c, addend},
                          2 * static_cast<double>(c.size()) * static_cast<double>(a.depth()));
  check(stream, a, b, c, addend, scaling);
  cuda::coded_gemm(stream, a, b, c, addend, scaling);
}

void lay_out_codes(Stream& stream, const CodeLayout& layout) {
  if (!stream.on_device()) refuse_the_host();
  const KernelTimer timer(stream, "lay_out_codes", {layout.from, layout.to});
  cuda::lay_out_codes(stream, layout);
}

void tile_scales(Stream& stream, const Tensor& scales, int64_t rows, int64_t blocks, int64_t square,
                 const Tensor& tiles) {
  if (!stream.on_device()) refuse_the_host();
  const KernelTimer timer(stream, "tile_scales", {scales, tiles});
  cuda::tile_scales(stream, scales, rows, blocks, square, tiles);
}

}  // namespace nibble
