#include "comm/exchange_cost.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>

#include "comm/sparse_message.hpp"

namespace nibble {
namespace {

/// Before a stream goes its header, which is a message too.
constexpr double messages_of_stream = 2;

/// Of a stream with so many entries, which is dense if as many as `bound` make it so.
double stream_bytes(double length, double entries, double bound, Wire values) {
  const auto elements = static_cast<int64_t>(std::llround(length));
  const auto count = std::min(static_cast<int64_t>(std::llround(entries)), elements);
  const auto bytes_in = [&](SparseLayout layout, int64_t number) {
    return wire_bytes({.layout = layout, .values = values}, elements, number);
  };
  const size_t bytes = bound < static_cast<double>(dense_switch(elements))
                           ? std::min(bytes_in(SparseLayout::plain, count), bytes_in(SparseLayout::packed, count))
                           : bytes_in(SparseLayout::dense, elements);
  return static_cast<double>(bytes + message_header_bytes);
}

/// Messages that follow each other on the way to the last rank, and bytes on that way and of the busiest sender.
struct Work {
  double messages = 0, bytes = 0, bytes_sent = 0;
};

Work dense_work(const SumSize& size) {
  const double ranks = size.ranks, share = (ranks - 1) / ranks * static_cast<double>(size.length);
  // The gather of parts sends values as they came.
  const double bytes = 2 * share * (size.dense == Wire::bf16 ? 2 : 4);
  return {2 * (ranks - 1), bytes, bytes};
}

Work together(const Work& a, const Work& b) {
  return {a.messages + b.messages, a.bytes + b.bytes, a.bytes_sent + b.bytes_sent};
}

double entries_of_sum(const SumSize& size, int vectors) {
  return expected_entries(size.length, static_cast<double>(size.entries), vectors);
}

/// A message or more of every rank to every other.
Work to_all_others(const SumSize& size, double bytes, double messages) {
  const double peers = size.ranks - 1;
  return {messages * peers, peers * bytes, peers * bytes};
}

/// Every rank's parts to their owners.
Work split_work(const SumSize& size) {
  const double ranks = size.ranks, entries = static_cast<double>(size.entries) / ranks;
  const double part = stream_bytes(static_cast<double>(size.length) / ranks, entries, entries, size.contributions);
  return to_all_others(size, part, messages_of_stream);
}

Work split_gather_work(const SumSize& size) {
  const double ranks = size.ranks, entries = static_cast<double>(size.entries);
  const double part = stream_bytes(static_cast<double>(size.length) / ranks, entries_of_sum(size, size.ranks) / ranks,
                                   (entries_of_sum(size, size.ranks - 1) + entries) / ranks, size.sums);
  return together(split_work(size), to_all_others(size, part, messages_of_stream));
}

Work dense_split_work(const SumSize& size) {
  const int64_t part = size.length / size.ranks;
  const double bytes = size.codec ? static_cast<double>(size.codec->bytes(part))
                                  : static_cast<double>(part) * (size.sums == Wire::bf16 ? 2 : 4);
  return together(split_work(size), to_all_others(size, bytes, 1));
}

Work recursive_doubling_work(const SumSize& size) {
  const int doubling = static_cast<int>(std::bit_floor(static_cast<unsigned>(size.ranks)));
  const bool spare = doubling < size.ranks;
  /// The sum of `first` vectors and `second` others.
  const auto stream_of = [&](int first, int second, Wire values) {
    return stream_bytes(static_cast<double>(size.length), entries_of_sum(size, first + second),
                        entries_of_sum(size, first) + entries_of_sum(size, second), values);
  };
  Work work;
  for (int distance = 1; distance < doubling; distance *= 2) {
    // What the ranks have that took in a spare one's.
    const int vectors = std::min((spare ? 2 : 1) * distance, size.ranks);
    work.bytes += stream_of(vectors / 2, vectors - vectors / 2, size.contributions);
    work.messages += messages_of_stream;
  }
  work.bytes_sent = work.bytes;
  if (!spare) return work;
  const double in = stream_of(0, 1, size.contributions);
  const double out = stream_of(size.ranks / 2, size.ranks - size.ranks / 2, Wire::f32);
  return together(work, {2 * messages_of_stream, in + out, out});
}

double largest_of_ranks(Communicator& communicator, double mine) {
  std::vector<double> all(static_cast<size_t>(communicator.size()));
  gather_all(communicator, {&mine, 1}, std::vector<int64_t>(all.size(), 1), all);
  return *std::max_element(all.begin(), all.end());
}

}  // namespace

std::string_view name(SumWay way) { return way == SumWay::dense ? "dense" : name(algorithm_of(way)); }

SparseAlgorithm algorithm_of(SumWay way) {
  assert(way != SumWay::dense);
  if (way == SumWay::recursive_doubling) return SparseAlgorithm::recursive_doubling;
  return way == SumWay::split ? SparseAlgorithm::split : SparseAlgorithm::dense_split;
}

double expected_entries(int64_t length, double entries, int vectors) {
  if (length == 0) return 0;
  const double all = static_cast<double>(length);
  return -all * std::expm1(vectors * std::log1p(-std::min(entries, all) / all));
}

std::vector<SumCost> sum_costs(const SumSize& size, const LinkCost& link) {
  const std::array<Work, 4> works = {dense_work(size), recursive_doubling_work(size), split_gather_work(size),
                                     dense_split_work(size)};
  std::vector<SumCost> costs;
  for (const SumWay way : all_ways) {
    const Work& work = works[static_cast<size_t>(way)];
    const double seconds = work.messages * link.latency + work.bytes * link.per_byte;
    costs.push_back({.way = way,
                     .bytes = work.bytes_sent,
                     .seconds = seconds * link.computing[static_cast<size_t>(way)],
                     .allowed = way == SumWay::dense || work.bytes_sent < works[0].bytes_sent});
  }
  return costs;
}

SumChoice choose_sum(const SumSize& size, const LinkCost& link) {
  constexpr LinkCost bytes_alone{.latency = 0, .per_byte = 1};
  SumChoice choice{.size = size, .link = link, .costs = sum_costs(size, link.per_byte > 0 ? link : bytes_alone)};
  const SumCost* best = &choice.costs.front();
  for (const SumCost& cost : choice.costs)
    if (cost.allowed && cost.seconds < best->seconds) best = &cost;
  choice.way = best->way;
  return choice;
}

SumChoice agree_on_sum(Communicator& communicator, SumSize size, LinkCost link) {
  size.ranks = communicator.size();
  size.entries = static_cast<int64_t>(largest_of_ranks(communicator, static_cast<double>(size.entries)));
  link.latency = largest_of_ranks(communicator, link.latency);
  link.per_byte = largest_of_ranks(communicator, link.per_byte);
  for (double& factor : link.computing) factor = largest_of_ranks(communicator, factor);
  return choose_sum(size, link);
}

std::string describe(const SumChoice& choice) {
  std::string text = fmt::format(
      "{} sum of {} ranks: {} of {} elements have entries ({:.3g}%), {:.0f} expected in the sum; link {:.3g} us and "
      "{:.4g} MB/s;",
      name(choice.way), choice.size.ranks, choice.size.entries, choice.size.length,
      choice.size.length > 0
          ? 100.0 * static_cast<double>(choice.size.entries) / static_cast<double>(choice.size.length)
          : 0.0,
      entries_of_sum(choice.size, choice.size.ranks), choice.link.latency * 1e6, 1e-6 / choice.link.per_byte);
  for (const SumCost& cost : choice.costs)
    text += fmt::format("{} {} {:.4g} MB {:.4g} ms{}", &cost == choice.costs.data() ? "" : ",", name(cost.way),
                        cost.bytes * 1e-6, cost.seconds * 1e3, cost.allowed ? "" : " (not allowed)");
  return text;
}

}  // namespace nibble
