// Sums of sparse streams of values that lie in the memory of devices: results, messages and what is remembered have the
// bits of the host's, and a run goes on with them on either.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "comm/bucket_exchange.hpp"
#include "comm/bucket_sums.hpp"
#include "comm/bucket_vector.hpp"
#include "comm/stream_exchange.hpp"
#include "comm/wire_work.hpp"
#include "tests/comm/nccl/device_ranks.hpp"

namespace nibble {
namespace {

using namespace std::chrono_literals;

constexpr int64_t steps = 4, refused_step = 1;

struct Case {
  std::string name;
  SparseSumOptions options;
  SumGoes goes = SumGoes::to_all;
  int64_t elements = 2 * 4096 + 700;
};

std::vector<Case> cases() {
  const Codec codec = codec_named("maxmin-8", 1024, "test");
  using enum SparseAlgorithm;
  const Selection few{.k = 4}, many{.k = 200}, all{.k = 512}, of_all{Selection::Of::all, 90};
  return {
      {"recursive doubling", {.selection = few, .algorithm = recursive_doubling}},
      {"split", {.selection = few, .algorithm = split}},
      {"dense split", {.selection = few, .algorithm = dense_split}},
      {"dense split, bf16", {.selection = of_all, .wire = Wire::bf16, .algorithm = dense_split}},
      {"dense split, 8 bits", {.selection = few, .error_feedback = false, .algorithm = dense_split, .codec = codec}},
      {"sums that become dense", {.selection = many, .algorithm = split}},
      {"doubled sums that become dense, bf16",
       {.selection = many, .wire = Wire::bf16, .algorithm = recursive_doubling}},
      {"all elements", {.selection = all, .error_feedback = false, .algorithm = split}},
      {"all elements, bf16", {.selection = all, .error_feedback = false, .wire = Wire::bf16, .algorithm = split}},
      {"of all, bf16", {.selection = of_all, .wire = Wire::bf16, .algorithm = split}},
      {"a part that is dense", {.selection = few, .algorithm = split}, SumGoes::to_all, 515},
      {"to owners", {.selection = few}, SumGoes::to_owner},
      {"to owners, many", {.selection = many, .error_feedback = false}, SumGoes::to_owner},
      {"to owners, of all, bf16", {.selection = of_all, .wire = Wire::bf16}, SumGoes::to_owner},
      {"an element", {.selection = few}, SumGoes::to_all, 1},
      {"no element", {.selection = few}, SumGoes::to_all, 0},
      {"to owners of nothing", {.selection = few}, SumGoes::to_owner, 300},
  };
}

/// Values of a bucket in one run, or in pieces with room between them.
class Values {
 public:
  Values(Stream* stream, const BucketPlace& place, bool in_pieces)
      : stream_(stream),
        work_(stream),
        place_(place),
        memory_(static_cast<size_t>(4 * place.elements() + 100) * sizeof(float), "test", place.memory) {
    auto* at = static_cast<float*>(memory_.data()) + 1;
    for (const int64_t count : place.part_elements) {
      Pieces pieces;
      for (int64_t done = 0; done < count;) {
        const int64_t here = in_pieces ? std::min<int64_t>(count - done, 1000) : count;
        pieces.push_back(std::as_writable_bytes(std::span(at, static_cast<size_t>(here))));
        at += here + (in_pieces ? 3 : 0);
        done += here;
      }
      parts_.push_back(pieces);
    }
  }

  const Parts& parts() const { return parts_; }
  void fill(const std::vector<float>& values) {
    work_.unpack(std::as_bytes(std::span(values)), joined(parts_), 0);
    wait();
  }
  std::vector<float> fetch(const Pieces& pieces) {
    std::vector<float> values(bytes_of(pieces) / sizeof(float));
    work_.pack(pieces, 0, std::as_writable_bytes(std::span(values)));
    wait();
    return values;
  }
  /// What a rank gets.
  std::vector<float> result() {
    return fetch(place_.goes == SumGoes::to_all ? joined(parts_) : parts_[static_cast<size_t>(place_.rank)]);
  }

 private:
  void wait() {
    if (stream_) stream_->wait();
  }

  Stream* stream_;
  WireWork work_;
  BucketPlace place_;
  Buffer memory_;
  Parts parts_;
};

/// What a rank has of it all.
struct Outcome {
  std::string description;
  std::vector<std::vector<float>> results, owns;
  std::vector<double> squares;
  std::vector<float> state;
  uint64_t bytes_sent = 0;
};

std::vector<float> gradient_of(int rank, int64_t step, int64_t elements) {
  std::mt19937 random(static_cast<uint32_t>(100 * step + rank));
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(elements));
  for (float& value : values) value = std::pow(normal(random), 3.0f);
  return values;
}

BucketPlace place_of(const Case& how, int ranks, int rank, Place memory) {
  ExchangePlan plan{.part_elements = {{}}, .group = {}, .goes = how.goes, .memory = memory};
  for (int owner = 0; owner < ranks; ++owner)
    plan.part_elements[0].push_back(part_begin(how.elements, ranks, owner + 1) -
                                    part_begin(how.elements, ranks, owner));
  return places_of(plan, rank, 7).front();
}

/// The sum's state on the host, or from there.
std::vector<float> state_of(Stream* stream, BucketSum& sum, const std::vector<float>* from = nullptr) {
  StateList list;
  sum.state(list, "");
  std::vector<float> all;
  for (const StateList::Entry& entry : list.entries()) {
    std::vector<float> values(static_cast<size_t>(entry.count()));
    Pieces there{{static_cast<std::byte*>(entry.tensor.data), entry.tensor.bytes()}};
    EXPECT_EQ(entry.tensor.place, stream ? Place::device : Place::host);
    if (from) WireWork(stream).unpack(std::as_bytes(std::span(*from)), there, 0);
    else WireWork(stream).pack(there, 0, std::as_writable_bytes(std::span(values)));
    if (stream) stream->wait();
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

/// Steps [first, end) after those that left `state`.
void run(const Case& how, Communicator& ranks, bool in_pieces, int64_t first, int64_t end, Outcome& outcome) {
  Stream* const stream = ranks.stream();
  const BucketPlace place = place_of(how, ranks.size(), ranks.rank(), stream ? Place::device : Place::host);
  const BucketSumPointer sum = make_sparse_sum(place, how.options);
  if (first > 0) state_of(stream, *sum, &outcome.state);
  outcome.description = sum->description();
  Values values(stream, place, in_pieces);
  const auto bytes = static_cast<size_t>(how.elements) * sizeof(float);
  const Buffer own(bytes + sizeof(float), "test", place.memory);
  const uint64_t before = ranks.bytes_sent();
  for (int64_t step = first; step < end; ++step) {
    values.fill(gradient_of(ranks.rank(), step, how.elements));
    const bool tells_own = step % 2 == 1;
    const std::span<float> of_own{static_cast<float*>(own.data()), static_cast<size_t>(how.elements)};
    sum->sum(ranks, values.parts(), step, tells_own ? of_own : std::span<float>());
    outcome.results.push_back(values.result());
    if (tells_own) outcome.owns.push_back(values.fetch({std::as_writable_bytes(of_own)}));
    outcome.squares.push_back(sum->residual_square());
    if (step == refused_step) sum->discard();
    else sum->commit();
  }
  outcome.bytes_sent += ranks.bytes_sent() - before;
  outcome.state = state_of(stream, *sum);
}

std::vector<Outcome> on_hosts(const Case& how, int ranks) {
  std::vector<Outcome> outcomes(static_cast<size_t>(ranks));
  run_on_ranks(ranks,
               [&](Communicator& link) { run(how, link, true, 0, steps, outcomes[static_cast<size_t>(link.rank())]); });
  return outcomes;
}

std::unique_ptr<DeviceCommunicator> make_links(bool staged, const std::shared_ptr<Communicator>& host,
                                               const std::shared_ptr<Stream>& stream) {
  return staged ? make_staged_communicator(host, stream) : make_nccl_communicator(host, stream, patient);
}

/// On devices from step `first` on, on the host before it.
std::vector<Outcome> on_devices(const Case& how, int ranks, bool staged, bool in_pieces, int64_t first) {
  std::vector<Outcome> outcomes(static_cast<size_t>(ranks));
  run_on_devices({.ranks = ranks, .share = staged, .faults = {.seed = 5, .longest_delay = 100us}},
                 [&](const auto& host, const auto& stream) {
                   Outcome& outcome = outcomes[static_cast<size_t>(host->rank())];
                   if (first > 0) run(how, *host, in_pieces, 0, first, outcome);
                   run(how, *make_links(staged, host, stream), in_pieces, first, steps, outcome);
                 });
  return outcomes;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

bool same_bits(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  return std::ranges::equal(a, b, [](const auto& x, const auto& y) { return same_bits(x, y); });
}

void expect_equal(const std::vector<Outcome>& seen, const std::vector<Outcome>& expected) {
  for (size_t rank = 0; rank < expected.size(); ++rank) {
    SCOPED_TRACE(fmt::format("rank {}", rank));
    EXPECT_EQ(seen[rank].description, expected[rank].description);
    EXPECT_TRUE(same_bits(seen[rank].results, expected[rank].results));
    EXPECT_TRUE(same_bits(seen[rank].owns, expected[rank].owns));
    EXPECT_EQ(seen[rank].squares, expected[rank].squares);
    EXPECT_TRUE(same_bits(seen[rank].state, expected[rank].state));
    EXPECT_EQ(seen[rank].bytes_sent, expected[rank].bytes_sent);
  }
}

TEST(SparseSumsOnDevices, HaveTheHostsBits) {
  for (const Case& how : cases())
    for (const int ranks : {1, 2, 3}) {
      const std::vector<Outcome> expected = on_hosts(how, ranks);
      for (const bool staged : {false, true}) {
        SCOPED_TRACE(fmt::format("{}, {} ranks, {}", how.name, ranks, staged ? "staged" : "NCCL"));
        expect_equal(on_devices(how, ranks, staged, staged, 0), expected);
      }
    }
}

TEST(SparseSumsOnDevices, GoOnWithWhatTheHostRemembers) {
  for (const Case& how : cases()) {
    if (!how.options.error_feedback) continue;
    SCOPED_TRACE(how.name);
    expect_equal(on_devices(how, 2, true, false, 2), on_hosts(how, 2));
  }
}

TEST(SparseSumsOnDevices, HideNothingThatIsNoNumber) {
  const Case how{"", {.selection = {.k = 4}}};
  constexpr int ranks = 2;
  for (const float poison : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()})
    run_on_devices({.ranks = ranks, .share = true}, [&](const auto& host, const auto& stream) {
      const std::unique_ptr<DeviceCommunicator> links = make_links(true, host, stream);
      const BucketPlace place = place_of(how, ranks, links->rank(), Place::device);
      const BucketSumPointer sum = make_sparse_sum(place, how.options);
      Values values(stream.get(), place, false);
      std::vector<float> gradient = gradient_of(links->rank(), 0, how.elements);
      if (links->rank() == 1) gradient[777] = poison;
      values.fill(gradient);
      sum->sum(*links, values.parts(), 0, {});
      EXPECT_FALSE(std::isfinite(values.result()[777]));
      sum->discard();
    });
}

/// Ranks that select alike have made a sum dense long before; but its form, a flag says.
TEST(SparseSumsOnDevices, TakeStreamsWithMoreEntriesThanThereIsRoomFor) {
  const Case how{"",
                 {.selection = {.k = 4}, .error_feedback = false, .algorithm = SparseAlgorithm::recursive_doubling}};
  constexpr int ranks = 3;
  const std::vector<float> sent = gradient_of(1, 0, how.elements);
  run_on_devices({.ranks = ranks, .share = true}, [&](const auto& host, const auto& stream) {
    const int64_t length = how.elements;
    if (host->rank() == 0) {  // a spare one, who hears from the next
      const std::unique_ptr<DeviceCommunicator> links = make_links(true, host, stream);
      const BucketPlace place = place_of(how, ranks, 0, Place::device);
      const BucketSumPointer sum = make_sparse_sum(place, how.options);
      Values values(stream.get(), place, true);
      values.fill(gradient_of(0, 0, length));
      sum->sum(*links, values.parts(), 0, {});
      EXPECT_TRUE(same_bits(values.result(), sent));
    } else if (host->rank() == 1) {
      const IncomingStream in{0, length};
      (void)exchange_streams(*host, {}, {&in, 1}, Wire::f32, 0);
      std::vector<SparseEntry> entries;
      for (const float value : sent) entries.push_back({static_cast<uint32_t>(entries.size()), value});
      const SparseStream all(length, std::move(entries));
      const OutgoingStream out{0, &all};
      (void)exchange_streams(*host, {&out, 1}, {}, Wire::f32, 0);
    }
  });
}

/// One after the other in the same memory, as those of a run are.
TEST(SparseSumsOnDevices, OfSeveralBucketsShareMemory) {
  const std::vector<int64_t> sizes{900, 9000, 4000};
  constexpr int ranks = 2;
  const SparseSumOptions options{.selection = {.k = 60}, .algorithm = SparseAlgorithm::split};
  const auto sums_on = [&](Communicator& links) {
    Stream* const stream = links.stream();
    ExchangePlan plan{.part_elements = {}, .group = {}, .memory = stream ? Place::device : Place::host};
    for (const int64_t size : sizes) plan.part_elements.push_back({size - size / 3, size / 3});
    const std::vector<BucketPlace> places = places_of(plan, links.rank(), 7);
    std::vector<BucketSumPointer> sums;
    std::vector<std::unique_ptr<Values>> values;
    for (const BucketPlace& place : places) {
      sums.push_back(make_sparse_sum(place, options));
      values.push_back(std::make_unique<Values>(stream, place, place.number == 1));
    }
    std::vector<std::vector<float>> results;
    for (int64_t step = 0; step < 2; ++step) {
      for (size_t i = 0; i < sums.size(); ++i) values[i]->fill(gradient_of(links.rank(), step, sizes[i]));
      for (size_t i = 0; i < sums.size(); ++i) sums[i]->sum(links, values[i]->parts(), step, {});
      for (size_t i = 0; i < sums.size(); ++i) results.push_back(values[i]->result());
      for (const BucketSumPointer& sum : sums) sum->commit();
    }
    return results;
  };
  std::vector<std::vector<std::vector<float>>> expected(ranks), seen(ranks);
  run_on_ranks(ranks, [&](Communicator& link) { expected[static_cast<size_t>(link.rank())] = sums_on(link); });
  run_on_devices({.ranks = ranks}, [&](const auto& host, const auto& stream) {
    seen[static_cast<size_t>(host->rank())] = sums_on(*make_links(false, host, stream));
  });
  for (size_t rank = 0; rank < ranks; ++rank) EXPECT_TRUE(same_bits(seen[rank], expected[rank])) << rank;
}

}  // namespace
}  // namespace nibble
