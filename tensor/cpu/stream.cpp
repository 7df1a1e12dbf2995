#include "tensor/stream.hpp"

#include <omp.h>
#include <sched.h>

#include <cstdlib>
#include <utility>
#include <vector>

#include "tensor/cores.hpp"
#include "tensor/cuda/device.hpp"
#include "tensor/cuda/stream_memory.hpp"
#include "tensor/error.hpp"
#include "tensor/gemm.hpp"
#include "tensor/imagined_device.hpp"
#include "tensor/staging.hpp"

namespace nibble {

int usable_cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : omp_get_num_procs();
}

namespace {

Isa widest_isa() {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
    throw Error({.kind = ErrorKind::resource,
                 .what = "this processor has no AVX2",
                 .allowed = "x86-64-v3 or newer (Intel Haswell, AMD Excavator)"});
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  return avx512 ? Isa::avx512 : Isa::avx2;
#else
  return Isa::avx2;  // the baseline build, whatever it was compiled for
#endif
}

Isa chosen_isa() {
  const Isa widest = widest_isa();
  const char* wish = std::getenv("NIBBLE_ISA");
  if (!wish) return widest;
  for (const Isa isa : {Isa::avx2, Isa::avx512})
    if (isa <= widest && std::string(wish) == name(isa)) return isa;
  throw Error({.kind = ErrorKind::configuration,
               .what = "unknown or unavailable instruction set",
               .where = "environment variable NIBBLE_ISA",
               .seen = wish,
               .allowed = widest == Isa::avx512 ? "avx2, avx512" : "avx2",
               .next = "unset NIBBLE_ISA"});
}

}  // namespace

const char* name(Isa isa) { return isa == Isa::avx512 ? "avx512" : "avx2"; }

Stream::Stream(int threads)
    : threads_(threads > 0 ? threads : usable_cores()), isa_(chosen_isa()), gemms_(std::make_unique<GemmCache>()) {
  omp_set_num_threads(threads_);
  omp_set_dynamic(0);
}

namespace {

/// Selected from now on. Throws Error{resource} where there is none.
cuda::DeviceFacts select(int device) {
  const std::vector<cuda::DeviceFacts> found = cuda::available() ? cuda::devices() : std::vector<cuda::DeviceFacts>();
  if (std::cmp_greater_equal(device, found.size()))
    throw Error({.kind = ErrorKind::resource,
                 .what = "there is no such GPU",
                 .seen = "device " + std::to_string(device),
                 .allowed = !cuda::available() ? "none: this program was built without CUDA"
                            : found.empty()    ? "none: the driver finds no GPU"
                                               : "0 to " + std::to_string(found.size() - 1),
                 .next = cuda::available() ? "see what nvidia-smi and CUDA_VISIBLE_DEVICES say"
                                           : "build where the CUDA Toolkit (12.8 or newer) is"});
  cuda::select(device);
  return found[static_cast<size_t>(device)];
}

}  // namespace

Stream::Stream(int threads, Place place, int device) : Stream(threads) {
  if (place == Place::host) return;
  const ImaginedDevice* const imagined = imagined_device();
  const int architecture = imagined ? imagined->architecture() : select(device).architecture;
  queue_ = new_queue();
  host_ = std::make_unique<Stream>(threads);
  staging_ = std::make_unique<Staging>(*queue_);
  memory_ = std::make_unique<cuda::StreamMemory>(architecture);
}

Stream::~Stream() { queue_.reset(); }  // ends when its work does, which reads what is staged

}  // namespace nibble
