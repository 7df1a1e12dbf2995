#include "tensor/gemm.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <string_view>

#include "tensor/coded_gemm.hpp"
#include "tensor/convert.hpp"
#include "tensor/cpu/onednn_gemm.hpp"
#include "tensor/cuda/kernels.hpp"
#include "tensor/error.hpp"
#include "tensor/packed_gemm.hpp"
#include "tensor/profile.hpp"

namespace nibble {
namespace {

/// Intel's 512-bit bf16 dot product is slower than its fp32 multiply-add (29 against 54 operations a cycle on Sapphire
/// Rapids), AMD's is faster; AMX is far ahead of both.
bool bf16_instructions_pay() {
#if defined(__x86_64__)
  return onednn_has_amx() || (__builtin_cpu_is("amd") && __builtin_cpu_supports("avx512bf16"));
#else
  return true;
#endif
}

/// The environment variable NIBBLE_GEMM, for comparisons: which kernels multiply wherever they can.
enum class Wish { none, packed, onednn, emulated, kernel_scales };
Wish wish(const Stream& stream) {
  const char* text = std::getenv("NIBBLE_GEMM");
  if (!text) return Wish::none;
  const bool can_pack = stream.isa() >= Isa::avx512;
  if (can_pack && std::string_view(text) == "packed") return Wish::packed;
  if (std::string_view(text) == "onednn") return Wish::onednn;
  if (std::string_view(text) == "emulated") return Wish::emulated;
  if (std::string_view(text) == "kernel-scales") return Wish::kernel_scales;
  throw Error({.kind = ErrorKind::configuration,
               .what = "unknown or unavailable GEMM",
               .where = "environment variable NIBBLE_GEMM",
               .seen = text,
               .allowed = can_pack ? "packed, onednn, emulated, kernel-scales"
                                   : "onednn, emulated, kernel-scales (packed needs AVX-512)",
               .next = "unset NIBBLE_GEMM"});
}

/// Nibble's own kernel for operands of a type, or null where oneDNN multiplies.
const TileKernel* tile_kernel(const Stream& stream, DType operands) {
  static const bool leave_bf16 = bf16_instructions_pay();
  const Wish wished = wish(stream);
  if (stream.isa() < Isa::avx512 || wished == Wish::onednn) return nullptr;
  if (operands == DType::f32) return fma_tile_kernel();
  // AMX multiplies i8 eight times as fast as AVX-512, and oneDNN alone uses it.
  if (operands == DType::i8) return onednn_has_amx() && wished != Wish::packed ? nullptr : vnni_tile_kernel();
  if (leave_bf16 && wished != Wish::packed) return nullptr;
  return amx_tile_kernel() ? amx_tile_kernel() : fma_tile_kernel();
}

/// The same for a product. With fewer rows than a tile has (a decoder's), packing all of B costs more than the product.
const TileKernel* tile_kernel(const Stream& stream, const Product& product) {
  const TileKernel* kernel = tile_kernel(stream, product.a.dtype);
  return kernel && product.c.rows >= kernel->rows ? kernel : nullptr;
}

void check(const Product& product) {
  const auto& [a, transpose_a, b, transpose_b, c, addend, scaling] = product;
  const int64_t m = transpose_a ? a.cols : a.rows, n = transpose_b ? b.rows : b.cols, k = product.depth(),
                k_of_b = transpose_b ? b.cols : b.rows;
  const bool narrow = a.dtype == DType::bf16 || a.dtype == DType::i8;
  const bool types_fit = a.dtype == b.dtype && (narrow || a.dtype == DType::f32) &&
                         (c.dtype == DType::f32 || (narrow && c.dtype == DType::bf16));
  const bool addend_fits = !addend || (addend.dtype == DType::f32 && addend.rows == m && addend.cols == n &&
                                       (addend.data != c.data || c.dtype == DType::f32));
  const auto scales = [](const Tensor& x, int64_t count) {
    return !x || (x.dtype == DType::f32 && x.rows == 1 && x.cols == count);
  };
  const bool codes = a.dtype == DType::i8;
  const bool scaling_fits = scales(scaling.rows, m) && scales(scaling.cols, n) && (codes || !scaling.has_offsets());
  if (types_fit && addend_fits && scaling_fits && k == k_of_b && (!codes || k <= largest_i8_depth) && c.rows == m &&
      c.cols == n)
    return;
  throw Error(
      {.kind = ErrorKind::internal,
       .what = "GEMM operands do not fit",
       .seen = fmt::format("a {} op [{}, {}], b {} op [{}, {}], c {} [{}, {}], addend {} [{}, {}], scales of "
                           "{} rows ({}) and {} columns ({}), offsets {} and {}",
                           name(a.dtype), m, k, name(b.dtype), k_of_b, n, name(c.dtype), c.rows, c.cols,
                           name(addend.dtype), addend.rows, addend.cols, scaling.rows.cols, name(scaling.rows.dtype),
                           scaling.cols.cols, name(scaling.cols.dtype), scaling.a_offset, scaling.b_offset),
       .allowed = fmt::format("f32, bf16 or i8 for a and b, offsets and depths up to {} for i8", largest_i8_depth)});
}

void run(Stream& stream, int threads, const Product& product) {
  const TileKernel* kernel = tile_kernel(stream, product);
  if (!kernel) onednn_gemm(stream, threads, product);
  else if (threads == 1) packed_gemm_in_task(*kernel, product);
  else packed_gemm(stream, *kernel, product);
}

std::string describe(const Product& product) {
  return fmt::format("gemm {}x{}x{} {}{} {}>{}", product.c.rows, product.c.cols, product.depth(),
                     product.transpose_a ? 'T' : 'N', product.transpose_b ? 'T' : 'N', name(product.a.dtype),
                     name(product.c.dtype));
}

}  // namespace

bool widens_codes(const Stream& stream) { return wish(stream) == Wish::emulated; }
bool kernels_scale(const Stream& stream) { return wish(stream) == Wish::kernel_scales; }

void gemm(Stream& stream, const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b,
          const Tensor& c, const Tensor& addend, const Scaling& scaling) {
  const Product product{a, transpose_a == Transpose::yes, b, transpose_b == Transpose::yes, c, addend, scaling};
  const std::string description = stream.profile() ? describe(product) : std::string();
  const KernelTimer timer(stream, description, {a, b, c, addend, scaling.rows, scaling.cols},
                          2 * static_cast<double>(c.size()) * static_cast<double>(product.depth()));
  check(product);
  if (stream.on_device()) return cuda::gemm(stream, a, transpose_a, b, transpose_b, c, addend, scaling);
  run(stream, stream.threads(), product);
}

void gemm_in_task(Stream& stream, const Tensor& a, Transpose transpose_a, const Tensor& b, Transpose transpose_b,
                  const Tensor& c, const Tensor& addend) {
  const Product product{a, transpose_a == Transpose::yes, b, transpose_b == Transpose::yes, c, addend};
  check(product);
  run(stream, 1, product);
}

/// Of the products by which oneDNN's peak is measured.
static constexpr int64_t measured_size = 1024;

/// Beside what the library has (cuda/cublaslt.hpp): sums that it does not finish and codes that are laid out for it.
static size_t device_scratch_bytes(DType operands, int64_t a, int64_t b, int64_t c, int64_t scaled_c) {
  // Rows of codes that begin on multiples of 16 bytes, and terms of 8 bytes a row and a column.
  constexpr size_t paddings = size_t{4} << 20;
  if (operands != DType::i8) return bytes_of(DType::f32, 1, scaled_c);
  return static_cast<size_t>(a + b) + bytes_of(DType::f32, 1, std::max(c, scaled_c)) + paddings;
}

size_t gemm_scratch_bytes(const Stream& stream, DType operands, int64_t a, int64_t b, int64_t c, int64_t scaled_c) {
  if (stream.on_device()) return device_scratch_bytes(operands, a, b, c, scaled_c);
  const TileKernel* kernel = tile_kernel(stream, operands);
  return kernel ? static_cast<size_t>(stream.threads()) * packed_gemm_scratch_bytes(*kernel)
                : onednn_scratch_bytes(stream.threads(), operands, std::max(a, measured_size * measured_size),
                                       std::max(b, measured_size * measured_size), c, scaled_c);
}

std::string gemm_library(const Stream& stream, DType operands) {
  if (stream.on_device()) return cuda::gemm_library(stream, operands);
  const TileKernel* kernel = tile_kernel(stream, operands);
  return kernel ? kernel->name : onednn_description();
}

void choose_gemms(Stream& stream, const GemmRecord& known, bool tune) {
  if (stream.on_device()) cuda::choose_gemms(stream, known, tune);
}

GemmRecord chosen_gemms(Stream& stream) { return stream.on_device() ? cuda::chosen_gemms(stream) : GemmRecord(); }

namespace {

/// Seconds of the fastest of several runs: at least four, over `budget` seconds or more, the first not counted.
template <class Run>
double fastest(double budget, Run&& run) {
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  const Clock::time_point start = Clock::now();
  double best = std::numeric_limits<double>::infinity();
  for (int repeat = 0; repeat < 4 || seconds_since(start) < budget; ++repeat) {
    const Clock::time_point begin = Clock::now();
    run();
    if (repeat > 0) best = std::min(best, seconds_since(begin));
  }
  return best;
}

/// Zeros would take less power, and with it more clock.
OwnedTensor ones(DType type, int64_t rows, int64_t cols) {
  OwnedTensor x(type, rows, cols);
  if (type == DType::bf16) std::fill_n(x.view().as<bf16>(), x.view().size(), bf16(1.0f));
  else if (type == DType::i8) std::fill_n(x.view().as<int8_t>(), x.view().size(), int8_t{1});
  else std::fill_n(x.view().as<float>(), x.view().size(), 1.0f);
  return x;
}

/// Every thread multiplies the same two panels, which stay in its L1 cache.
double measure_tile_peak(Stream& stream, const TileKernel& kernel) {
  constexpr int64_t repeats = 64;
  const int64_t depth = 256, padded = kernel.padded_depth(depth);
  const double seconds = fastest(0.01, [&] {
    parallel_tasks(stream, stream.threads(), [&](int64_t, int64_t) {
      const OwnedTensor a = ones(kernel.panel_type, kernel.rows, padded),
                        b = ones(kernel.panel_type, kernel.cols, padded), c(kernel.sum_type, kernel.rows, kernel.cols);
      for (int64_t repeat = 0; repeat < repeats; ++repeat)
        kernel.multiply(padded, a.view().data, b.view().data, nullptr, 0,
                        {kernel.sum_type, c.view().data, kernel.cols});
    });
  });
  return static_cast<double>(2 * kernel.rows * kernel.cols * depth * repeats * stream.threads()) / seconds;
}

}  // namespace

static double measure_device_peak(Stream& stream, DType type) {
  constexpr int64_t of_processor = 64;  // some 8192 on the largest devices
  const int64_t size = of_processor * cuda::devices().front().processors;
  const auto there = [&](DType of) { return OwnedTensor(of, size, size, "GEMM peak", Place::device); };
  const OwnedTensor a = there(type), c = there(DType::f32);
  const OwnedTensor here = ones(type, size, size);
  copy(stream, here, a);
  stream.wait();
  const double seconds = fastest(0.15, [&] {
    gemm(stream, a, Transpose::no, a, Transpose::yes, c);
    stream.wait();
  });
  return 2.0 * size * size * size / seconds * 1e-12;
}

double measure_gemm_peak(Stream& stream, DType type) {
  if (stream.on_device()) return measure_device_peak(stream, type);
  if (const TileKernel* kernel = tile_kernel(stream, type)) return measure_tile_peak(stream, *kernel) * 1e-12;
  constexpr int64_t size = measured_size;
  const OwnedTensor a = ones(type, size, size), b = ones(type, size, size), c(DType::f32, size, size);
  return 2.0 * size * size * size / fastest(0.15, [&] { gemm(stream, a, Transpose::no, b, Transpose::yes, c); }) *
         1e-12;
}

}  // namespace nibble
