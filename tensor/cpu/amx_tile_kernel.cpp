#include "tensor/cpu/amx_tile_kernel.hpp"

#if defined(__x86_64__)

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,prefer-vector-width=512")  // clang: CMakeLists.txt
#include "tensor/cpu/transpose.hpp"

namespace nibble {
namespace {

using simd::f32x, simd::lanes, simd::u16x, simd::u32x;

constexpr int64_t panel_width = 32, depth_step = 32, square = 16 * 32;

/// The first `count` of `size` bf16, zeros behind them.
template <class Vector>
Vector load_bits(const bf16* p, int64_t count) {
  constexpr auto size = static_cast<int64_t>(sizeof(Vector) / sizeof(bf16));
  Vector bits{};
  std::memcpy(&bits, p, static_cast<size_t>(std::clamp<int64_t>(count, 0, size)) * sizeof(bf16));
  return bits;
}

/// x[count, depth]: line r holds 16 pairs of row `outer` + r.
inline void load_rows(const Tensor& x, int64_t outer, int64_t k, f32x (&lines)[lanes]) {
  for (int64_t r = 0; r < lanes; ++r)
    lines[r] = outer + r < x.rows ? load_bits<f32x>(x.row<bf16>(outer + r) + k, x.cols - k) : f32x{};
}

/// x[depth, count]: line i holds the pair (k + 2 i, k + 2 i + 1) of 16 columns.
inline void load_pairs(const Tensor& x, int64_t outer, int64_t k, f32x (&lines)[lanes]) {
  const auto half = [&](int64_t row) {
    return __builtin_convertvector(row < x.rows ? load_bits<u16x>(x.row<bf16>(row) + outer, x.cols - outer) : u16x{},
                                   u32x);
  };
  for (int64_t i = 0; i < lanes; ++i) lines[i] = simd::as<f32x>(half(k + 2 * i) | (half(k + 2 * i + 1) << 16));
}

/// Squares whose lines are rows as they stand (or pairs as they stand), or turned.
[[gnu::flatten]] void pack_squares(const Tensor& x, bool depth_major, bool turn, void* panels) {
  assert(x.dtype == DType::bf16);
  const int64_t count = depth_major ? x.cols : x.rows, depth = depth_major ? x.rows : x.cols;
  auto* into = static_cast<float*>(panels);  // pairs
  for (int64_t panel = 0; panel < count; panel += panel_width)
    for (int64_t k = 0; k < depth; k += depth_step)
      for (int64_t outer = panel; outer < panel + panel_width; outer += lanes, into += square / 2) {
        f32x lines[lanes];
        if (depth_major) load_pairs(x, outer, k, lines);
        else load_rows(x, outer, k, lines);
        if (turn) simd::transpose(lines);
        for (int64_t i = 0; i < lanes; ++i) simd::store(into + i * lanes, lines[i]);
      }
}

}  // namespace

void pack_amx_rows(const Tensor& x, bool depth_major, void* panels) {
  pack_squares(x, depth_major, depth_major, panels);
}
void pack_amx_cols(const Tensor& x, bool depth_major, void* panels) {
  pack_squares(x, depth_major, !depth_major, panels);
}

#pragma GCC pop_options  // what follows is inlined into functions for any processor

namespace {

/// Shapes of the eight tile registers: palette 1, all of 16 lines of 64 bytes.
struct alignas(64) TileConfiguration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t line_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t lines[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfiguration) == 64);

/// Assembler, so that the compiler neither drops nor moves the stores that a tile load reads.
struct AmxTiles {
  static void enter() {
    static const TileConfiguration configuration;
    asm volatile("ldtilecfg %0" ::"m"(configuration));
  }
  static void leave() { asm volatile("tilerelease"); }
  template <int tile>
  static void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(tile));
  }
  template <int tile>
  static void load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(tile) : "memory");
  }
  template <int tile>
  static void store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(tile) : "memory");
  }
  template <int c, int a, int b>
  static void dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(c), "i"(a), "i"(b));
  }
};

/// The processor has the instructions, the system saves the registers, and grants them to this process.
bool request_tiles() {
  uint32_t eax, ebx, ecx, edx;
  constexpr uint32_t amx_bf16 = 1u << 22, amx_tile = 1u << 24, osxsave = 1u << 27;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (edx & amx_bf16) == 0 || (edx & amx_tile) == 0) return false;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & osxsave) == 0) return false;
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  constexpr uint32_t tile_state = 3u << 17;
  if ((low & tile_state) != tile_state) return false;
  constexpr long arch_request_permission = 0x1023, tile_data = 18;
  return syscall(SYS_arch_prctl, arch_request_permission, tile_data) == 0;
}

}  // namespace

const TileKernel* amx_tile_kernel() {
  static constexpr TileKernel kernel = amx_tile_kernel_on<AmxTiles>("packed AMX 32x32");
  static const bool granted = request_tiles();
  return granted ? &kernel : nullptr;
}

}  // namespace nibble

#else

namespace nibble {
const TileKernel* amx_tile_kernel() { return nullptr; }
}  // namespace nibble

#endif
