#include "trainer/gpu_diagnosis.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "quant/quantize.hpp"
#include "quant/self_test.hpp"
#include "tensor/convert.hpp"
#include "tensor/error.hpp"
#include "tensor/fill.hpp"
#include "tensor/gemm.hpp"
#include "trainer/gemm_check.hpp"
#include "trainer/stopwatch.hpp"

namespace nibble {
namespace {

/// All that one call of quantize() writes, in memory of its stream; what a quantizer does not have is empty.
struct Written {
  OwnedTensor values, scale, codes, scales, mask;

  Written(const Quantizer& q, int64_t rows, int64_t depth, Place place)
      : values(DType::f32, rows, depth, "check", place) {
    if (q.extent == Extent::row) scale = OwnedTensor(DType::f32, 1, rows, "check", place);
    if (q.packable()) codes = OwnedTensor(DType::u8, rows, depth / 8 * q.element->bits(), "check", place);
    if (q.packable() && q.blocks()) scales = OwnedTensor(DType::u8, rows, depth / q.group, "check", place);
    if (q.mask != MaskRule::all) mask = OwnedTensor(DType::u8, rows, depth / 8, "check", place);
  }

  void quantize_into(Stream& stream, const Operand& x, const Quantizer& quantizer) const {
    const Quantization how{.quantizer = quantizer};
    const Scalar statistic = quantizer.needs_tensor_statistic() ? tensor_statistic(stream, x, how) : Scalar(1);
    quantize(stream, x, how, statistic, values, scale, {.codes = codes, .scales = scales, .mask = mask});
  }
  std::array<Tensor, 5> all() const { return {values, scale, codes, scales, mask}; }
};

bool same_bits(Stream& device, const Written& host, const Written& remote) {
  const std::array<Tensor, 5> here = host.all(), there = remote.all();
  for (size_t i = 0; i < here.size(); ++i) {
    if (!here[i]) continue;
    const OwnedTensor fetched(here[i].dtype, here[i].rows, here[i].cols, "check");
    copy(device, there[i], fetched);
    device.wait();
    if (std::memcmp(fetched.view().data, here[i].data, here[i].bytes()) != 0) return false;
  }
  return true;
}

GpuFacts examine(int number, const cuda::DeviceFacts& found, const std::vector<Recipe>& recipes) {
  GpuFacts facts{
      .name = found.name, .architecture = found.architecture, .processors = found.processors, .memory = found.memory};
  try {
    Stream device(0, Place::device, number);
    facts.free = cuda::devices()[static_cast<size_t>(number)].free;
    facts.wrong =
        wrong_elements(device, DType::f32) + wrong_elements(device, DType::bf16) + wrong_elements_of_codes(device);
    facts.unsound = differing_quantizer(device, recipes);
    facts.peak = measure_gemm_peak(device, DType::bf16);
    facts.bandwidth = copy_bandwidth(device);
  } catch (const Error& error) {
    facts.trouble = error.what();
  }
  return facts;
}

}  // namespace

void to_json(nlohmann::ordered_json& json, const GpuFacts& facts) {
  json = {{"name", facts.name},
          {"architecture", facts.architecture},
          {"processors", facts.processors},
          {"memory", facts.memory},
          {"free", facts.free},
          {"bf16_tflops", facts.peak},
          {"copy_gb_per_second", facts.bandwidth},
          {"wrong_elements", facts.wrong},
          {"unsound", facts.unsound},
          {"trouble", facts.trouble}};
}

void from_json(const nlohmann::ordered_json& json, GpuFacts& facts) {
  json.at("name").get_to(facts.name);
  json.at("architecture").get_to(facts.architecture);
  json.at("processors").get_to(facts.processors);
  json.at("memory").get_to(facts.memory);
  json.at("free").get_to(facts.free);
  json.at("bf16_tflops").get_to(facts.peak);
  json.at("copy_gb_per_second").get_to(facts.bandwidth);
  json.at("wrong_elements").get_to(facts.wrong);
  json.at("unsound").get_to(facts.unsound);
  json.at("trouble").get_to(facts.trouble);
}

std::vector<GpuFacts> examine_gpus(const std::vector<Recipe>& recipes) {
  std::vector<GpuFacts> all;
  if (!cuda::available()) return all;
  try {
    for (const cuda::DeviceFacts& found : cuda::devices())
      all.push_back(examine(static_cast<int>(all.size()), found, recipes));
  } catch (const Error& error) {  // of the driver
    all.push_back({.name = "GPUs", .trouble = error.what()});
  }
  return all;
}

std::string differing_quantizer(Stream& device, const std::vector<Recipe>& recipes) {
  constexpr int64_t rows = 48, depth = 512;  // whole squares and blocks of every quantizer
  const OwnedTensor x(DType::f32, rows, depth, "check"), there(DType::f32, rows, depth, "check", Place::device);
  fill_normal(device.host(), RandomStream(1, Purpose::initialization), 1, x);
  copy(device, x, there);
  std::vector<Quantizer> done;
  for (const Recipe& recipe : recipes)
    for (const auto& [operand, quantizer] : quantizers_of(recipe)) {
      if (!quantizer.quantizes() || std::ranges::find(done, quantizer) != done.end()) continue;
      done.push_back(quantizer);
      const Written host(quantizer, rows, depth, Place::host), remote(quantizer, rows, depth, Place::device);
      host.quantize_into(device.host(), {.values = x}, quantizer);
      remote.quantize_into(device, {.values = there}, quantizer);
      if (!same_bits(device, host, remote)) return recipe.name + ", " + operand;
    }
  return {};
}

double copy_bandwidth(Stream& stream) {
  constexpr int64_t rows = 1 << 10, cols = 1 << 15;  // 128 MiB each way: more than any cache gives to one process
  const OwnedTensor from(DType::f32, rows, cols, "bandwidth", stream.place()),
      to(DType::f32, rows, cols, "bandwidth", stream.place());
  fill(stream, from, 1.0f);  // pages that nobody wrote are one page of zeros
  stream.wait();
  double best = 0;
  for (int repeat = 0; repeat < 4; ++repeat) {
    Stopwatch watch;
    convert(stream, from, to);
    stream.wait();
    if (repeat > 0) best = std::max(best, static_cast<double>(2 * from.view().bytes()) / watch.seconds() * 1e-9);
  }
  return best;
}

}  // namespace nibble
