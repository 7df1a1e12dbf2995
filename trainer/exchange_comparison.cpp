#include "trainer/exchange_comparison.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>

#include "comm/bucket_vector.hpp"
#include "comm/coded_blocks.hpp"
#include "comm/partition.hpp"
#include "comm/stream_exchange.hpp"
#include "comm/wire_work.hpp"
#include "tensor/error.hpp"
#include "trainer/processor_time.hpp"
#include "trainer/quantile.hpp"
#include "trainer/stopwatch.hpp"
#include "trainer/units.hpp"

namespace nibble {
namespace {

constexpr int64_t bucket_of_codes = 1024;

/// Of all ranks' numbers, the largest of each.
std::vector<double> largest(Communicator& ranks, const std::vector<double>& mine) {
  const auto size = static_cast<size_t>(ranks.size());
  std::vector<double> all(size * mine.size()), most = mine;
  gather_all(ranks, mine, std::vector<int64_t>(size, std::ssize(mine)), all);
  for (size_t i = 0; i < all.size(); ++i) most[i % most.size()] = std::max(most[i % most.size()], all[i]);
  return most;
}

std::vector<float> normal_cubes(int rank, const ComparisonOptions& options) {
  const RandomStream shared(1, Purpose::initialization), own(2, Purpose::initialization, static_cast<uint32_t>(rank));
  const double of_shared = std::sqrt(options.correlation), of_own = std::sqrt(1 - options.correlation);
  std::vector<float> values(static_cast<size_t>(options.elements));
  for (size_t i = 0; i < values.size(); ++i) {
    const double normal = of_shared * shared.normal_pair(i / 2)[i % 2] + of_own * own.normal_pair(i / 2)[i % 2];
    values[i] = static_cast<float>(normal * normal * normal);
  }
  return values;
}

ExchangePlan plan_of(int ranks, int64_t elements, Place memory) {
  ExchangePlan plan{.part_elements = {{}}, .group = {}, .isa = Stream(1).isa(), .memory = memory};
  for (int rank = 0; rank < ranks; ++rank)
    plan.part_elements[0].push_back(part_begin(elements, ranks, rank + 1, block_elements) -
                                    part_begin(elements, ranks, rank, block_elements));
  return plan;
}

/// One sum under measurement.
class Candidate {
 public:
  Candidate(const ComparedSum& of, const BucketPlace& place)
      : of_(of), place_(place), sum_(of.make(place)), vector_(DType::f32, 1, place.elements(), {}, place.memory) {}

  std::string way() const { return sum_->description(); }

  void run(Communicator& ranks, const std::vector<float>& gradient, int64_t step) {
    const Parts parts = parts_of(result(), place_);
    WireWork(ranks).unpack(std::as_bytes(std::span(gradient)), joined(parts), 0);
    ranks.wait();
    barrier(ranks.host());
    const uint64_t sent = ranks.bytes_sent();
    const double begin = processor_seconds();
    const Stopwatch watch;
    sum_->sum(ranks, parts, step, {});
    ranks.wait();
    seconds.push_back(watch.seconds());
    processor.push_back(processor_seconds() - begin);
    bytes = static_cast<double>(ranks.bytes_sent() - sent);
    sum_->commit();
  }

  std::vector<float> fetch_result(Communicator& ranks) const {
    std::vector<float> values(static_cast<size_t>(place_.elements()));
    WireWork(ranks).pack({std::as_writable_bytes(result())}, 0, std::as_writable_bytes(std::span(values)));
    ranks.wait();
    return values;
  }

  /// The sum alone, of what is sparse.
  void run_from_streams(Communicator& ranks, const std::vector<float>& gradient, int64_t step) {
    if (!of_.sparse) return;
    assert(place_.memory == Place::host);
    const SparseSumOptions& options = *of_.sparse;
    Stream stream(1);
    SparseStream mine =
        as_received(top_k_of_buckets(stream, gradient, static_cast<int>(options.selection.k)), options.wire);
    std::optional<CodedBlocks> codec;
    if (options.codec) codec.emplace(*options.codec, place_.codes(step).of_rank(0).of_sum(), place_.isa);
    barrier(ranks);
    const Stopwatch watch;
    const SparseAllreduce how{.algorithm = options.algorithm,
                              .contributions = options.wire,
                              .sums = options.wire,
                              .codec = codec ? &*codec : nullptr,
                              .label = static_cast<uint64_t>(step)};
    // To the sum as it comes: few entries, or all values.
    if (options.algorithm == SparseAlgorithm::dense_split) sparse_allreduce(ranks, std::move(mine), how, result());
    else (void)sparse_allreduce(ranks, std::move(mine), how);
    from_streams.push_back(watch.seconds());
  }

  std::vector<double> seconds, from_streams, processor;
  double bytes = 0;

 private:
  std::span<float> result() const {
    return {static_cast<float*>(vector_.view().data), static_cast<size_t>(place_.elements())};
  }

  ComparedSum of_;
  BucketPlace place_;
  BucketSumPointer sum_;
  OwnedTensor vector_;  ///< memory as a run's gradients have it
};

[[noreturn]] void refuse_name(const std::string& name) {
  throw Error({.kind = ErrorKind::configuration,
               .what = "unknown way of summing",
               .where = "--exchanges",
               .seen = name,
               .allowed = "dense, dense-bf16, top-1%, top-1%-split, top-1%-recursive-doubling, top-1%-CODEC, CODEC",
               .next = "`nibble --help bench allreduce` lists examples"});
}

/// "0.78%-split" and so on, behind "top-"; of the options, all but the way where the name leaves it open.
struct SparseName {
  SparseSumOptions options{.wire = Wire::bf16};
  bool chosen = false;
};

SparseName sparse_name(const std::string& name, const std::string& text) {
  const size_t dash = text.find('-');
  SparseName parsed;
  SparseSumOptions& options = parsed.options;
  try {
    const double density = parse_share(text.substr(0, dash));
    if (!(density > 0 && density <= 1)) throw ValueError{"out of range"};
    options.selection.k = std::max<int64_t>(1, std::llround(density * static_cast<double>(bucket_elements)));
  } catch (const ValueError&) {
    refuse_name(name);
  }
  const std::string way = dash == std::string::npos ? "" : text.substr(dash + 1);
  if (way.empty()) {
    parsed.chosen = true;
  } else if (way == "split") {
    options.algorithm = SparseAlgorithm::split;
  } else if (way == "recursive-doubling") {
    options.algorithm = SparseAlgorithm::recursive_doubling;
  } else {
    options.algorithm = SparseAlgorithm::dense_split;
    options.codec = codec_named(way, bucket_of_codes, "--exchanges");
  }
  return parsed;
}

SumSize size_of(const SparseSumOptions& sum, int ranks, int64_t elements, const DenseCodec* codec) {
  return {.ranks = ranks,
          .length = elements,
          .entries = entries_of_buckets(elements, sum.selection.k),
          .contributions = sum.wire,
          .sums = sum.wire,
          .dense = sum.wire,
          .codec = codec};
}

}  // namespace

ComparedSum compared_sum(const std::string& name, int ranks, int64_t elements, const LinkCost& link) {
  constexpr std::string_view top = "top-";
  const auto dense = [](Wire wire) { return [wire](const BucketPlace& place) { return make_dense_sum(place, wire); }; };
  if (name == "dense") return {.name = name, .make = dense(Wire::f32)};
  if (name == "dense-bf16") return {.name = name, .make = dense(Wire::bf16)};
  if (name.starts_with(top)) {
    auto [options, chosen] = sparse_name(name, name.substr(top.size()));
    if (chosen) {
      const SumWay way = choose_sum(size_of(options, ranks, elements, nullptr), link).way;
      if (way == SumWay::dense) return {.name = name, .make = dense(Wire::bf16)};
      options.algorithm = algorithm_of(way);
    }
    return {.name = name,
            .make = [options](const BucketPlace& place) { return make_sparse_sum(place, options); },
            .sparse = options,
            .chosen = chosen};
  }
  if (std::ranges::find(codecs(), name, &Codec::name) == codecs().end()) refuse_name(name);
  const Codec codec = codec_named(name, bucket_of_codes, "--exchanges");
  return {.name = name, .make = [codec](const BucketPlace& place) { return make_quantized_sum(place, codec); }};
}

std::vector<SumMeasurement> compare_sums(Communicator& ranks, const std::vector<ComparedSum>& sums,
                                         const ComparisonOptions& options) {
  Communicator& hosts = ranks.host();
  const auto place_in = [&](Place memory) {
    return places_of(plan_of(ranks.size(), options.elements, memory), ranks.rank(), 1).front();
  };
  const BucketPlace place = place_in(ranks.stream() ? Place::device : Place::host), on_host = place_in(Place::host);
  const std::vector<float> gradient = options.gradient.empty() ? normal_cubes(ranks.rank(), options) : options.gradient;
  std::vector<float> exact = gradient;
  make_dense_sum(on_host, Wire::f32)->sum(hosts, parts_of(exact, on_host), 0, {});
  double exact_square = 0;
  for (const float value : exact) exact_square += double(value) * value;

  std::vector<Candidate> candidates;
  for (const ComparedSum& sum : sums) candidates.emplace_back(sum, place);
  std::vector<double> errors(sums.size());
  for (int repeat = -1; repeat < options.repeats; ++repeat)
    for (size_t i = 0; i < candidates.size(); ++i) {
      Candidate& candidate = candidates[i];
      candidate.run(ranks, gradient, repeat + 1);
      if (repeat < 0) {  // the first sum, to which nothing was held back before
        const std::vector<float> result = candidate.fetch_result(ranks);
        for (size_t e = 0; e < exact.size(); ++e) {
          const double miss = double(result[e]) - exact[e];
          errors[i] += miss * miss;
        }
      }
      candidate.run_from_streams(ranks, gradient, repeat + 1);
      if (repeat >= 0) continue;
      candidate.seconds.clear();
      candidate.from_streams.clear();
      candidate.processor.clear();
    }
  std::vector<SumMeasurement> measured;
  for (size_t i = 0; i < candidates.size(); ++i) {
    Candidate& candidate = candidates[i];
    const bool sparse = !candidate.from_streams.empty();
    const std::vector<double> seconds = largest(hosts, candidate.seconds),
                              streams = sparse ? largest(hosts, candidate.from_streams) : std::vector{0.0},
                              other = largest(hosts, {median(candidate.processor), candidate.bytes});
    measured.push_back({.name = sums[i].name,
                        .way = candidate.way(),
                        .seconds = median(seconds),
                        .seconds_from_streams = median(streams),
                        .processor_seconds = other[0],
                        .bytes = other[1],
                        .error = std::sqrt(errors[i] / exact_square)});
  }
  return measured;
}

LinkCost with_computing(Communicator& ranks, const SparseSumOptions& sum, const LinkCost& link) {
  // As long as a dense sum may take, and no longer than what caches hold by far.
  constexpr double seconds = 0.2;
  constexpr int64_t fewest = int64_t{1} << 18, most = int64_t{1} << 22;
  const double element_bytes = 2 * (sum.wire == Wire::bf16 ? 2 : 4);
  const auto elements =
      static_cast<int64_t>(std::clamp(seconds / (element_bytes * link.per_byte), double(fewest), double(most)));
  std::optional<CodedBlocks> blocks;
  if (sum.codec) blocks.emplace(*sum.codec, CodeSource{}, Isa::avx2);
  const std::vector<SumCost> costs = sum_costs(size_of(sum, ranks.size(), elements, blocks ? &*blocks : nullptr),
                                               {.latency = link.latency, .per_byte = link.per_byte});
  std::vector<ComparedSum> ways;
  for (const SumWay way : all_ways)
    ways.push_back({.name = std::string(name(way)), .make = [=](const BucketPlace& place) {
                      if (way == SumWay::dense) return make_dense_sum(place, sum.wire);
                      SparseSumOptions options = sum;
                      options.algorithm = algorithm_of(way);
                      if (way != SumWay::dense_split) options.codec.reset();
                      return make_sparse_sum(place, options);
                    }});
  const std::vector<SumMeasurement> measured = compare_sums(ranks, ways, {.elements = elements, .repeats = 3});
  LinkCost known = link;
  for (size_t way = 0; way < measured.size(); ++way) known.computing[way] = measured[way].seconds / costs[way].seconds;
  return known;
}

std::optional<double> break_even_rate(const SumMeasurement& sum, const SumMeasurement& other) {
  const double bytes = other.bytes - sum.bytes, seconds = sum.processor_seconds - other.processor_seconds;
  if (seconds <= 0 || bytes <= 0) return std::nullopt;
  return bytes / seconds;
}

}  // namespace nibble
