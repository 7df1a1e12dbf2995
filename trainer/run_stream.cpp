#include "trainer/run_stream.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "model/attention.hpp"
#include "tensor/cores.hpp"
#include "tensor/error.hpp"
#include "tensor/gemm.hpp"

namespace nibble {
namespace {

int threads_of(const Settings& settings, const World& world) {
  const int cores = usable_cores();
  const bool own_cores = cores < static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  if (settings.run.threads != 0 || own_cores) return static_cast<int>(settings.run.threads);
  return std::max(1, cores / world.local_size());
}

}  // namespace

bool on_gpu(const Settings& settings) { return settings.run.device == "cuda"; }

Stream run_stream(const Settings& settings, const World& world) {
  if (!on_gpu(settings)) return Stream(threads_of(settings, world));
  return Stream(threads_of(settings, world), Place::device, gpu_of(world));
}

int gpu_of(const World& world) {
  // Where there are none, the stream says so.
  const size_t gpus = cuda::available() ? cuda::devices().size() : 0;
  return gpus > 0 ? world.local_rank() % static_cast<int>(gpus) : 0;
}

nlohmann::json tuning_of(const Stream& stream, const World& world, const std::string& gpu_attention) {
  nlohmann::json tuning = {{"threads", stream.threads()},
                           {"instruction_set", name(stream.isa())},
                           {"gemm_bf16", gemm_library(stream, DType::bf16)},
                           {"gemm_f32", gemm_library(stream, DType::f32)}};
  if (stream.on_device()) {
    const cuda::DeviceFacts gpu = cuda::devices()[static_cast<size_t>(gpu_of(world))];
    tuning["gemm_codes"] = gemm_library(stream, DType::u8);
    tuning["gpu"] = {{"name", gpu.name}, {"architecture", gpu.architecture}};
    if (gpu_attention != "own") tuning["gpu_attention"] = "cuDNN " + attention_library().version;
  }
  return tuning;
}

}  // namespace nibble
