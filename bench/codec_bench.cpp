// What encoding and decoding a gradient costs, by codec, on one core: 2^22 values in buckets of 1024.
//
// Counters: values/s, and bytes/s of f32 read or written beside the codes. `memory` is the limit of one core: nothing
// but reading or writing as many f32.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <numeric>
#include <string>
#include <vector>

#include "comm/bit_packing.hpp"
#include "comm/bucket_codec.hpp"
#include "comm/correlated_codec.hpp"
#include "comm/lattice_codec.hpp"
#include "tensor/simd.hpp"
#include "tensor/stream.hpp"

namespace nibble {
namespace {

constexpr int64_t count = int64_t{1} << 22, bucket = 1024;

const std::vector<float>& gradient() {
  static const std::vector<float> values = [] {
    const RandomStream stream(1, Purpose::initialization);
    std::vector<float> list(count);
    for (size_t i = 0; i < list.size(); ++i) list[i] = stream.normal_pair(i / 2)[i % 2];
    return list;
  }();
  return values;
}

void report(benchmark::State& state, size_t message_bytes) {
  const auto values = static_cast<double>(state.iterations()) * static_cast<double>(count);
  const double bytes_per_value = sizeof(float) + static_cast<double>(message_bytes) / static_cast<double>(count);
  state.counters["values/s"] = benchmark::Counter(values, benchmark::Counter::kIsRate);
  state.counters["bytes/s"] = benchmark::Counter(values * bytes_per_value, benchmark::Counter::kIsRate);
}

void measure_own(benchmark::State& state, const std::string& name, const std::string& what) {
  BucketCodec codec(codec_named(name, bucket, "bench"), Stream().isa());
  std::vector<std::byte> message(codec.codec().bytes_of(count));
  std::vector<float> values(count);
  codec.encode(gradient(), {}, message);
  for (auto _ : state) {
    if (what == "encode") codec.encode(gradient(), {}, message);
    if (what == "decode") codec.decode(message, {}, values);
    if (what == "add") codec.decode_and_add(message, {}, values);
  }
  report(state, message.size());
}

void measure_correlated(benchmark::State& state, const std::string& name, const std::string& what) {
  CorrelatedCodec codec(codec_named(name, bucket, "bench"), 4, Stream().isa());
  std::vector<std::byte> message(packed_bytes(count, codec.codec().bits));
  std::vector<float> values(count), prepared(count), ranges(count / bucket);
  std::vector<uint16_t> counts(count);
  const auto encode = [&] {
    // As in the sum over ranks: what nothing rotates is prepared already.
    const bool rotates = codec.codec().rotation != Codec::Rotation::none;
    if (rotates) codec.prepare(gradient(), {}, prepared);
    const std::span<const float> of = rotates ? prepared : gradient();
    codec.ranges(of, ranges);
    codec.encode(of, ranges, {}, 1, message);
  };
  encode();
  for (auto _ : state) {
    if (what == "encode") encode();
    if (what == "count") codec.count(message, {}, counts);
    if (what == "decode") {
      state.PauseTiming();
      std::ranges::fill(counts, uint16_t{1});
      state.ResumeTiming();
      codec.decode(counts, ranges, {}, values);
    }
  }
  report(state, message.size());
}

void measure_lattice(benchmark::State& state, const std::string& name, const std::string& what) {
  LatticeCodec codec(codec_named(name, bucket, "bench"), Stream().isa());
  std::vector<std::byte> message(codec.codec().bytes_of(count));
  std::vector<float> values(count);
  codec.encode(gradient(), 1, {}, message);
  for (auto _ : state) {
    if (what == "encode") codec.encode(gradient(), 1, {}, message);
    else benchmark::DoNotOptimize(codec.decode(message, gradient(), {}, values));
  }
  report(state, message.size());
}

/// What memory alone allows: reading f32, as encoding does; writing it, as decoding does; and both in one place.
void measure_memory(benchmark::State& state, const std::string&, const std::string& what) {
  const std::vector<float>& read = gradient();
  std::vector<float> values(count);
  for (auto _ : state) {
    if (what == "read") {
      simd::f32x sums[4] = {};
      for (size_t i = 0; i < read.size(); i += 4 * simd::lanes)
        for (size_t j = 0; j < 4; ++j) sums[j] += simd::load(&read[i + j * simd::lanes]);
      benchmark::DoNotOptimize(simd::sum(sums[0] + sums[1] + sums[2] + sums[3]));
    }
    if (what == "write") std::memset(values.data(), state.iterations() % 2 == 0 ? 0 : 1, values.size() * sizeof(float));
    if (what == "add")
      for (size_t i = 0; i < values.size(); i += simd::lanes) simd::store(&values[i], simd::load(&values[i]) + 1.0f);
    benchmark::ClobberMemory();
  }
  report(state, 0);
}

[[maybe_unused]] const bool registered = [] {
  const auto add = [](const char* name, auto measure, std::initializer_list<const char*> whats) {
    for (const std::string what : whats)
      benchmark::RegisterBenchmark(fmt::format("{}/{}", name, what).c_str(),
                                   [=](benchmark::State& state) { measure(state, name, what); });
  };
  for (const char* name : {"qsgd-8", "qsgd-4", "qsgd-2", "maxmin-8", "maxmin-4", "maxmin-nearest-4", "fp8",
                           "fp8-nearest", "drive", "eden-4", "eden-8"})
    add(name, measure_own, {"encode", "decode", "add"});
  for (const char* name : {"correlated-1", "correlated-4", "rotated-correlated-1", "rotated-correlated-4"})
    add(name, measure_correlated, {"encode", "count", "decode"});
  add("memory", measure_memory, {"read", "write", "add"});
  add("lattice-4", measure_lattice, {"encode", "decode"});
  return true;
}();

}  // namespace
}  // namespace nibble
