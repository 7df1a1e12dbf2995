// What encoding and decoding a gradient costs, by codec, on one core: 2^22 values in buckets of 1024.
//
// Counters: values/s, and bytes/s of f32 read or written beside the codes.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <numeric>
#include <string>
#include <vector>

#include "comm/bit_packing.hpp"
#include "comm/bucket_codec.hpp"
#include "comm/correlated_codec.hpp"
#include "comm/lattice_codec.hpp"
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
  codec.prepare(gradient(), {}, prepared);
  codec.ranges(prepared, ranges);
  codec.encode(prepared, ranges, {}, 1, message);
  for (auto _ : state) {
    if (what == "encode") {
      codec.prepare(gradient(), {}, prepared);
      codec.ranges(prepared, ranges);
      codec.encode(prepared, ranges, {}, 1, message);
    }
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

[[maybe_unused]] const bool registered = [] {
  const auto add = [](const char* name, auto measure, std::initializer_list<const char*> whats) {
    for (const std::string what : whats)
      benchmark::RegisterBenchmark(fmt::format("{}/{}", name, what).c_str(),
                                   [=](benchmark::State& state) { measure(state, name, what); });
  };
  for (const char* name : {"qsgd-8", "qsgd-4", "qsgd-2", "maxmin-8", "maxmin-4", "maxmin-nearest-4", "fp8",
                           "fp8-nearest", "drive", "eden-4", "eden-8"})
    add(name, measure_own, {"encode", "decode", "add"});
  for (const char* name : {"correlated-1", "correlated-4", "rotated-correlated-1"})
    add(name, measure_correlated, {"encode", "count", "decode"});
  add("lattice-4", measure_lattice, {"encode", "decode"});
  return true;
}();

}  // namespace
}  // namespace nibble
