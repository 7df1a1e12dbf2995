#include "trainer/exchange_kernels.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "comm/codec.hpp"
#include "comm/cuda/codes.hpp"
#include "comm/cuda/top_k.hpp"
#include "comm/error_feedback.hpp"
#include "tensor/convert.hpp"
#include "tensor/fill.hpp"
#include "trainer/queued_time.hpp"

namespace nibble {
namespace {

template <class Work>
KernelRate rate_of(Stream& device, const std::string& kernel, double bytes, const Work& work) {
  return {.kernel = kernel, .bytes = bytes, .seconds = queued_seconds(device, work)};
}

/// Normal numbers in the device's memory; beyond a million they are the same ones again.
void fill_vector(Stream& device, const Tensor& vector) {
  const int64_t drawn = std::min<int64_t>(vector.size(), int64_t{1} << 20);
  const OwnedTensor numbers(DType::f32, 1, drawn, "measurement");
  fill_normal(device.host(), RandomStream(1, Purpose::initialization), 1, numbers);
  for (int64_t first = 0; first < vector.size(); first += drawn) {
    const int64_t here = std::min(drawn, vector.size() - first);
    copy(device, numbers.view().run(0, here), vector.run(first, here));
  }
  device.wait();
}

/// Error feedback goes on from call to call, as from step to step.
KernelRate rate_of_selection(Stream& device, const Tensor& gradient, const Selection& selection, Wire wire) {
  const int64_t elements = gradient.size(), count = selection.entries(elements);
  const bool of_all = selection.of == Selection::Of::all;
  ErrorFeedback feedback(elements, Place::device);
  const Buffer entries(static_cast<size_t>(count) * sizeof(SparseEntry), "measurement", Place::device);
  const Buffer working(cuda::top_k_working_bytes(selection, elements), "measurement", Place::device);
  // Reads residual and gradient, writes what stays; a whole vector is read four times more.
  const double of_element = of_all ? 28 : 12;
  return rate_of(device,
                 fmt::format("top {} of {}, error feedback{}", selection.k,
                             of_all ? fmt::format("all {}", elements) : std::to_string(bucket_elements),
                             wire == Wire::bf16 ? ", bf16" : ""),
                 of_element * static_cast<double>(elements) + static_cast<double>(entries.bytes()), [&] {
                   feedback.select(device, gradient.on_device<float>(), selection, wire,
                                   static_cast<SparseEntry*>(entries.data()), working.data());
                   feedback.commit();
                 });
}

/// Zeros, and the entries among them.
KernelRate rate_of_entries(Stream& device, const Tensor& vector, int k) {
  const Selection selection{.k = k};
  const int64_t count = selection.entries(vector.size());
  const OwnedTensor target(DType::f32, 1, vector.size(), "measurement", Place::device);
  const Buffer entries(static_cast<size_t>(count) * sizeof(SparseEntry), "measurement", Place::device);
  auto* const selected = static_cast<SparseEntry*>(entries.data());
  cuda::top_k(device, {.gradient = vector.on_device<float>(),
                       .length = vector.size(),
                       .selection = selection,
                       .entries = selected,
                       .working = nullptr});
  return rate_of(
      device, fmt::format("{} entries of {} as a vector", k, bucket_elements),
      static_cast<double>(target.view().bytes() + entries.bytes() + static_cast<size_t>(count) * sizeof(float)), [&] {
        fill(device, target, 0);
        cuda::put_entries(device, selected, count, target.view().on_device<float>());
      });
}

/// Values to codes, and back.
void add_rates_of_codes(Stream& device, const Tensor& vector, const std::string& name, std::vector<KernelRate>& rates) {
  constexpr int64_t bucket = 1024;
  const Codec codec = codec_named(name, bucket, "measurement");
  const auto run = cuda::CodedRun::of(codec, {.seed = 1}, vector.size());
  const OwnedTensor decoded(DType::f32, 1, vector.size(), "measurement", Place::device);
  const Buffer codes(codec.bytes_of(vector.size()), "measurement", Place::device),
      refused(sizeof(unsigned long long), "measurement", Place::device);
  auto* const message = static_cast<uint8_t*>(codes.data());
  auto* const count = static_cast<unsigned long long*>(refused.data());
  const auto bytes = static_cast<double>(vector.bytes() + codes.bytes());
  rates.push_back(rate_of(device, fmt::format("{}, buckets of {}, codes of values", name, bucket), bytes,
                          [&] { cuda::encode_codes(device, run, vector.on_device<float>(), message, count); }));
  rates.push_back(rate_of(device, fmt::format("{}, buckets of {}, values of codes", name, bucket), bytes, [&] {
    cuda::decode_codes(device, run, {.first = message}, decoded.view().on_device<float>(), count);
  }));
}

}  // namespace

std::vector<KernelRate> measure_exchange_kernels(Stream& device, int64_t elements) {
  const OwnedTensor gradient(DType::f32, 1, elements, "measurement", Place::device);
  fill_vector(device, gradient);
  std::vector<KernelRate> rates;
  {
    const OwnedTensor other(DType::f32, 1, elements, "measurement", Place::device);
    rates.push_back(rate_of(device, "copy", 2 * static_cast<double>(gradient.view().bytes()),
                            [&] { convert(device, gradient, other); }));
  }
  for (const int64_t k : {4, 51}) rates.push_back(rate_of_selection(device, gradient, {.k = k}, Wire::f32));
  rates.push_back(rate_of_selection(device, gradient, {.k = 4}, Wire::bf16));
  const int64_t few = std::max<int64_t>(1, elements / 128);
  rates.push_back(rate_of_selection(device, gradient, {Selection::Of::all, few}, Wire::f32));
  rates.push_back(rate_of_entries(device, gradient, 4));
  for (const char* const codec : {"maxmin-4", "fp8", "eden-4"}) add_rates_of_codes(device, gradient, codec, rates);
  return rates;
}

}  // namespace nibble
